"""`evaluate` and `compare` on a set shaped like Flickr8k, in both of its layouts, against plain numpy and OpenCLIP."""

import contextlib
import hashlib
import io
import json
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline import builds, charts
from pipeline.cli import main
from pipeline.demo import scenes
from pipeline.evaluation import compare, retrieval, sheet
from pipeline.photo import UserError
from pipeline.stages import index
from tests import photostream
from tests import small_archive as small

MODEL = Path(__file__).parents[2] / "pipeline" / "demo" / "model"
SIDE = 96  # pixels of the drawings


def five(scene: scenes.Scene) -> list[str]:
    """Captions of a scene, with what makes them hard to read: commas, quotes, and some that other scenes have too."""
    said, thing = scenes.caption(scene), scene.things[0].kind
    return [
        said,
        f"view , {scene.things[-1].colour} , {scene.place}",
        f'"{thing}" , {scene.place}',
        f"A {thing} .",
        f'the "{thing}" of {said}',
    ]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """32 drawings, half by captions.txt and half by Flickr8k.token.txt, embedded by the demo's model and another."""
    folder = tmp_path_factory.mktemp("flickr8k")
    drawn = [scenes.random_scene(seed) for seed in range(900, 932)]
    names = [f"{1000268201 + scene.seed}_693b08cb0e.jpg" for scene in drawn]
    for place, (name, scene) in enumerate(zip(names, drawn, strict=True)):
        pictures = folder / ("txt/Images" if place % 2 else "token/Flicker8k_Dataset")
        pictures.mkdir(parents=True, exist_ok=True)
        scenes.draw(scene, SIDE, SIDE).save(pictures / name, quality=95)
    lines = [f"{name},{text}" for name, scene in zip(names, drawn, strict=True) for text in five(scene)]
    (folder / "txt" / "captions.txt").write_bytes("\r\n".join(["image,caption", *lines]).encode("utf-8-sig"))
    (folder / "token" / "Flickr8k_text").mkdir()
    lines = [
        f"{name}#{n}\t{text}" for name, scene in zip(names, drawn, strict=True) for n, text in enumerate(five(scene))
    ]
    (folder / "token" / "Flickr8k_text" / "Flickr8k.token.txt").write_text("\n".join(lines))
    models = {"demo": MODEL, "tiny": model}
    embeddings = {of: {"model": f"local-dir:{path}", "precision": "fp32"} for of, path in models.items()}
    sources = [{"kind": "folder", "path": str(folder / name), "prefix": f"{name}/"} for name in ("txt", "token")]
    for of in embeddings:
        given = {"captions": {}, "embeddings": embeddings, "sources": sources, "index": {"of": of}}
        photostream.carry_out(photostream.settings(str(folder / "archive"), "", model, "local", **given))
    return folder / "archive"


def say(*arguments: object) -> Any:
    """What a command prints as JSON."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(printed.getvalue())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page") / "evaluated.html"


@pytest.fixture(scope="module")
def evaluated(archive: Path, page: Path) -> Any:
    """What `evaluate` says of both models."""
    return say("evaluate", archive, "--of", "demo", "--of", "tiny", "--html", page)


def unit(vectors: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(vectors.float(), dim=-1).numpy()


@torch.no_grad()
def embedded(texts: list[str], pictures: list[Path] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of texts and pictures, by OpenCLIP alone."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{MODEL}")
    tokens = open_clip.get_tokenizer(f"local-dir:{MODEL}")(texts)
    pixels = [preprocess(Image.open(path).convert("RGB")) for path in pictures or []]
    images = unit(model.eval().encode_image(torch.stack(pixels))) if pixels else np.empty(0)
    return unit(model.eval().encode_text(tokens)), images


def table(archive: Path, name: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(part) for part in sorted((archive / name).glob("*.parquet"))])


def test_both_layouts_gave_every_picture_its_five_captions(archive: Path) -> None:
    photos = table(archive, "photos").to_pylist()
    expected = {
        f"{1000268201 + seed}_693b08cb0e": [" ".join(text.split()) for text in five(scenes.random_scene(seed))]
        for seed in range(900, 932)
    }
    assert {Path(photo["photo_id"]).stem: photo["human_captions"] for photo in photos} == expected
    assert {photo["photo_id"].partition("/")[0] for photo in photos} == {"file:txt", "file:token"}


def test_evaluate_gives_what_ten_lines_of_numpy_give(archive: Path, evaluated: Any) -> None:
    captions = table(archive, "photos")["human_captions"].to_pylist()
    pictures = np.array(table(archive, "embeddings/demo")["embedding"].to_pylist(), np.float32)
    texts = sorted({text for some in captions for text in some})
    right = np.array([[text in some for some in captions] for text in texts])
    cosines = embedded(texts)[0] @ pictures.T
    own = np.where(right, cosines, -2)
    found = 1 + ((cosines >= own.max(axis=1, keepdims=True)) & ~right).sum(axis=1)
    back = 1 + ((cosines >= own.max(axis=0)) & ~right).sum(axis=0)

    said, model = evaluated, evaluated["models"][0]
    assert (said["photos"], said["texts"]["kind"], said["texts"]["of_photos"]) == (32, "captions", 32)
    assert said["texts"]["number"] == len(texts) < 5 * 32
    assert said["texts"]["shared"] == (right.sum(axis=1) > 1).sum() > 0
    for way, ranks in (("text_to_image", found), ("image_to_text", back)):
        for depth in (1, 5, 10):
            assert model[way][f"recall@{depth}"]["value"] == pytest.approx((ranks <= depth).mean(), abs=1e-6)
        assert (model[way]["questions"], model[way]["median_rank"]) == (len(ranks), np.median(ranks))
    assert len(set(found.tolist())) > 5  # figures that say something


def test_the_json_is_as_documented(archive: Path, evaluated: Any) -> None:
    document = (Path(__file__).parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")
    blocks = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)]
    [recall] = [block for block in blocks if "interval" in block]
    [change] = [block for block in blocks if "from" in block and "of" in block]
    apart = {"texts": None, "differences": None}
    assert shape(recall | apart) == shape(evaluated | apart)
    assert recall["texts"].keys() == evaluated["texts"].keys()
    assert shape(change) == shape(evaluated["differences"][0])
    assert all(recall[words] == evaluated[words] for words in ("interval", "test"))
    [matrix] = [block for block in blocks if "cosines" in str(block)]
    said = say("compare", "--models", "demo", "tiny", archive, "-n", 2)
    assert shape(matrix | {"recall": None}) == shape(said | {"recall": None})
    assert said["recall"].keys() == recall.keys()


def shape(said: Any) -> Any:
    """Keys, and what a list holds; values do not matter."""
    if isinstance(said, dict):
        return {key: shape(value) for key, value in said.items()}
    return [shape(said[0])] if isinstance(said, list) else None


def test_evaluate_of_several_models_filters_and_limits(archive: Path, evaluated: Any, page: Path) -> None:
    demo, tiny = evaluated["models"]
    assert demo["text_to_image"]["recall@10"]["low"] > tiny["text_to_image"]["recall@10"]["high"]
    shown = page.read_text(encoding="utf-8")
    assert "<svg" in shown and shown.count("<th scope=row>difference</th>") == 2 and "p &lt;.001*" in shown
    [change] = evaluated["differences"]
    assert (change["from"], change["of"]) == ("demo", "tiny")
    for way in ("text_to_image", "image_to_text"):
        for depth in ("recall@1", "recall@10"):
            told = change[way][depth]
            assert told["value"] == pytest.approx(tiny[way][depth]["value"] - demo[way][depth]["value"], abs=2e-6)
            assert (told["gained"] - told["lost"]) / demo[way]["questions"] == pytest.approx(told["value"], abs=1e-6)
            assert told["beyond_chance"] and told["value"] < 0
    half = say("evaluate", archive, "--of", "demo", "--where", "photo_id LIKE 'file:txt/%'")
    few = say("evaluate", archive, "--of", "demo", "--limit", 8)
    assert (half["photos"], few["photos"]) == (16, 8)


def test_evaluate_for_people(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(archive), "--of", "demo"]) == 0
    printed = capsys.readouterr().out
    assert "32 photos" in printed and "captions by people of 32 photos" in printed and "text → image" in printed
    assert "difference" not in printed.lower()
    assert main(["evaluate", str(archive), "--of", "tiny", "--of", "demo"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    firsts = [row[0] for row in rows if row[:1] in (["tiny"], ["demo"], ["difference"])]
    assert firsts[2:] == ["tiny", "demo", "difference"] * 2  # below their names
    assert [row[1][0] for row in rows if row[:1] == ["difference"]] == ["+", "+"]


def test_nothing_to_find_photos_by_is_one_line(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--texts", "titles"], "nothing can find it"),  # they are the names of files
        (["--where", "false"], "keeps no photo"),
        (["--where", "nonsense"], "cannot use --where"),
    ):
        assert main(["evaluate", str(archive), "--of", "demo", *arguments]) == 2
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1


class Titled:
    """A model to which a title is its photo."""

    side = 1

    def __init__(self, stored: dict[str, np.ndarray]) -> None:
        self.stored = stored

    def identity(self) -> dict[str, Any]:
        return small.IDENTITY

    def preprocess(self, image: Image.Image) -> np.ndarray:
        raise NotImplementedError

    def embed_images(self, batch: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.stack([self.stored[text.removeprefix("title of ")] for text in texts]).astype(np.float32)


def test_what_is_forgotten_or_gone_is_no_candidate(tmp_path: Path) -> None:
    archive, stored = small.make(str(tmp_path), parts=2)
    index.build(archive, index.IndexSettings())
    small.forget(archive, "flickr:0-3")
    small.change(archive, "flickr:1-4", "visible", "false")
    build = builds.open_build(str(tmp_path))
    side = retrieval.indexed(build, lambda _: Titled(stored))
    said = retrieval.evaluate(build, [side], lambda items, total, what: items)
    assert (said["photos"], said["texts"]["number"], said["texts"]["kind"]) == (38, 38, "titles")
    assert said["models"][0]["text_to_image"]["recall@1"]["value"] == 1


def test_the_same_limit_takes_the_same_photos(tmp_path: Path) -> None:
    archive, _ = small.make(str(tmp_path), parts=2)
    index.build(archive, index.IndexSettings())
    small.forget(archive, "flickr:0-3")
    build = builds.open_build(str(tmp_path))
    known = [f"flickr:{part}-{row}" for part in range(2) for row in range(20) if (part, row) != (0, 3)]
    by_chance = sorted(known, key=lambda photo_id: hashlib.sha256(photo_id.encode()).digest())
    found = retrieval.choose(build, limit=9)
    assert {photo["photo_id"] for photo in found} == set(by_chance[:9])
    assert [photo["row_id"] for photo in found] == sorted(photo["row_id"] for photo in found)
    found = retrieval.choose(build, "photo_id LIKE 'flickr:1-%'", 4)
    assert {photo["photo_id"] for photo in found} == set([one for one in by_chance if one[7] == "1"][:4])
    assert len(retrieval.choose(build)) == len(retrieval.choose(build, limit=100)) == 39
    assert compare.sample(build, 39) == by_chance


class Colours:
    """A model to which a picture is its mean colour, and of which green ones have no vector; nor have texts."""

    side = 8

    def identity(self) -> dict[str, Any]:
        return small.IDENTITY

    def preprocess(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((8, 8)))

    def embed_images(self, batch: np.ndarray) -> np.ndarray:
        colours = batch.mean(axis=(1, 2)).astype(np.float32) + 1
        vectors = colours / np.linalg.norm(colours, axis=1, keepdims=True)
        return np.where(colours[:, 1:2] > 200, np.float32(np.nan), vectors)

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.full((len(texts), 3), np.nan, np.float32)


def test_what_has_no_vector_or_picture_is_counted_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg = small.jpeg
    large = {0: jpeg((0, 0, 90), (1600, 1200)), 1: jpeg((9, 250, 9)), 2: jpeg((9, 9, 9))[:300]}
    monkeypatch.setattr(small, "jpeg", lambda colour: large.get(colour[0]) or jpeg(colour))
    monkeypatch.setattr(compare, "MAX_PICTURE_PIXELS", 1000)  # is no limit of what fetch found fit
    archive, _ = small.make(str(tmp_path), parts=1)
    index.build(archive, index.IndexSettings())
    build, model = builds.open_build(str(tmp_path)), Colours()
    photos = retrieval.choose(build)
    row_ids = np.array([photo["row_id"] for photo in photos])

    def shown(items: Any, total: int, what: str) -> Any:
        return items

    vectors, has, why = compare.embed_photos(build, row_ids, model, shown)
    assert np.flatnonzero(~has).tolist() == [1, 2] and why == {"truncated": 1, "non_finite": 1}
    assert np.isfinite(vectors).all()

    side = retrieval.Side("colours", lambda rows: compare.embed_photos(build, rows, model, shown), lambda: model)
    with pytest.raises(
        UserError, match=r"test-model gives no finite vector of 18 of 18, such as 'title of flickr:0-0'"
    ):
        retrieval.evaluate(build, [side], shown)
    with pytest.raises(UserError, match=r"none of 1 photos has a vector of every model \(colours: non_finite 1\)"):
        retrieval.evaluate(build, [side], shown, where="photo_id = 'flickr:0-1'")
    [picture] = compare.from_archive(build, ["flickr:0-0"], [side])
    assert min(picture.image.size) < 2 * compare.THUMBNAIL
    with pytest.raises(UserError, match="flickr:0-2 has no usable picture"):
        compare.from_archive(build, ["flickr:0-2"], [side])
    green = compare.from_archive(build, ["flickr:0-1"], [side])
    model.embed_texts = lambda texts: np.eye(3, dtype=np.float32)[: len(texts)]  # type: ignore[method-assign]
    with pytest.raises(UserError, match="such as 'flickr:0-1'"):
        compare.compare(green, ["green"], [side], None, shown)


def test_many_pictures_are_drawn_small() -> None:
    n = compare.MOST
    assert main(["compare", "--models", "a", "b", "archive", "-n", str(n + 1)]) == 2
    cosines = np.random.default_rng(0).random((n, n)).tolist()
    pictures = [compare.Picture(str(number), Image.new("RGB", (200, 200))) for number in range(n)]
    said = {"texts": ["a"] * n, "pictures": ["b"] * n, "models": [{"of": "one", "cosines": cosines}] * 2}
    drawn = sheet.matrices(said, pictures)
    assert max(drawn.get_size_inches()) < 35
    assert not any(axes.texts or axes.child_axes for axes in drawn.axes)
    with Image.open(io.BytesIO(charts.png(drawn))) as png:
        assert png.width * png.height < 25e6


# --- compare ----------------------------------------------------------------------------------------------------------


def test_compare_gives_what_numpy_gives(archive: Path, tmp_path: Path) -> None:
    pictures = sorted(archive.parent.glob("t*/*/*.jpg"))[:3]
    texts = ["a red sailboat at sea", 'a "windmill" , in the snow', "an elephant"]
    words, images = embedded(texts, pictures)
    cosines = words @ images.T
    margins = [cosines[n, n] - max(np.delete(cosines[n], n)) for n in range(3)]
    given = [part for path, text in zip(pictures, texts, strict=True) for part in ("--picture", path, "--text", text)]
    png = tmp_path / "matrix.png"
    said = say("compare", "--models", f"local-dir:{MODEL}", f"local-dir:{MODEL}", *given, "--png", png)
    assert said["texts"] == texts and said["pictures"] == [str(path) for path in pictures] and said["recall"] is None
    for model in said["models"]:
        assert np.array(model["cosines"]) == pytest.approx(cosines, abs=2e-3)
        figures = (np.trace(cosines) / 3, (cosines.sum() - np.trace(cosines)) / 6, np.mean(margins), min(margins))
        assert tuple(model["diagonal"].values()) == pytest.approx(figures, abs=2e-3)
    with Image.open(png) as drawn:
        assert drawn.format == "PNG" and drawn.width > drawn.height


def test_compare_in_an_archive(archive: Path, evaluated: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    said = say("compare", "--models", "demo", "tiny", archive, "-n", 4, "--html", page)
    photos = {photo["photo_id"]: photo["human_captions"][0] for photo in table(archive, "photos").to_pylist()}
    assert len(said["pictures"]) == 4 and said["texts"] == [photos[photo_id] for photo_id in said["pictures"]]
    assert said["pictures"] == compare.sample(builds.open_build(str(archive), "tiny"), 4)  # always the same
    assert said["recall"]["models"] == evaluated["models"]
    demo, _ = said["models"]
    assert demo["diagonal"]["mean"] > demo["diagonal"]["others_mean"]
    written = page.read_text(encoding="utf-8")
    assert all(escape(text) in written for text in said["texts"]) and f"{demo['diagonal']['mean']:.3f}" in written


def test_a_model_from_elsewhere_is_measured_on_the_same_photos(archive: Path) -> None:
    """The demo's model under its own path embeds what the archive holds: it must find what the index finds."""
    [named] = compare.sample(builds.open_build(str(archive), "demo"), 1)
    said = say("compare", "--models", "demo", f"local-dir:{MODEL}", archive, "--photos", named, "--limit", 20)
    assert said["pictures"] == [named] and said["models"][0]["diagonal"] is None
    ours, theirs = said["recall"]["models"]
    assert said["recall"]["photos"] == 20
    for way in ("text_to_image", "image_to_text"):
        assert ours[way]["recall@5"]["value"] == pytest.approx(theirs[way]["recall@5"]["value"], abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "demo", "coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k", "ARCHIVE"], "for captions only"),
        (["--models", "demo", "nothing", "ARCHIVE"], "no index of nothing"),
        (["--models", "demo", "tiny", "ARCHIVE", "--photos", "file:none", "-n", "4"], "-n goes without --photos"),
        (["--models", "RN50/random", "RN50/random", "--picture", "a.jpg", "--limit", "9"], "goes with an archive"),
        (["--models", "demo", "tiny", "ARCHIVE", "--photos", "file:none"], "does not hold file:none"),
        (["--models", "demo", "tiny", "ARCHIVE", "--picture", "PICTURE"], "give a --text"),
        (["--models", "ViT-B-32/random", "RN50/random"], "compare the models on what"),
        (["--models", "ViT-B-32/random", "RN50/random", "--photos", "file:a"], "name the archive"),
        (["--models", "ViT-B-32/random", "RN50/random", "--picture", "none.jpg", "--text", "x"], "none.jpg"),
    ],
)
def test_mistakes_are_one_line(
    archive: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"ARCHIVE": str(archive), "PICTURE": str(next(archive.parent.glob("txt/Images/*.jpg")))}
    assert main(["compare", *(places.get(argument, argument) for argument in arguments)]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
