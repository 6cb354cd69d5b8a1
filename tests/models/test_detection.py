"""Objects found: boxes lie where the picture shows it, whatever was done to it on the way to the network."""

import functools
import json
import shutil
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from pipeline import imaging, pixels
from pipeline.models import detection, owl, repository
from pipeline.models.detection import Detector, distinct
from pipeline.models.owl import Owl
from pipeline.models.settings import ObjectSettings
from pipeline.photo import UserError
from pipeline.stages.pictures import prepare
from tests.models import owls

QUERIES = ("bicycle", "horse-drawn carriage", "cat")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: owls.write(tmp_path_factory.mktemp("owls") / kind, kind) for kind in owls.KINDS}


@functools.cache
def load(folder: Path, precision: str = "fp32") -> Owl:
    path, _ = repository.checkpoint(f"local-dir:{folder}")
    return owl.load(f"local-dir:{folder}", path, device="cpu", precision=precision)


def asked(**changed: Any) -> ObjectSettings:
    return ObjectSettings(**{"model": "local-dir:tiny", "queries": QUERIES, "threshold": 0.01, "top": 100} | changed)


def noise(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(width).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def find(model: Owl, images: list[Image.Image], **changed: Any) -> list[list[detection.Object] | None]:
    seen = model.encode(np.stack([model.preprocess(image) for image in images]))
    return Detector(model, asked(**changed)).find(seen, np.array([image.size for image in images]))


# --- where boxes land -------------------------------------------------------------------------------------------------

BOX = (0.625, 0.125, 0.875, 0.375)  # of what is red: left, top, right, bottom
REDNESS = 2.0  # of a normalised pixel, above which it counts as red


class Reddest(torch.nn.Module):
    """A stand-in for the network: what is red in the square that it is given is its one object, the first query's."""

    base_model_prefix = "towers"

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            vision_config=SimpleNamespace(image_size=160, patch_size=16),
            text_config=SimpleNamespace(max_position_embeddings=77),
            projection_dim=4,
        )
        self.towers = torch.nn.ModuleDict({"vision_model": torch.nn.Identity(), "text_model": torch.nn.Identity()})
        self.towers["text_projection"] = torch.nn.Identity()
        self.layer_norm = torch.nn.Identity()

    def image_embedder(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor]:
        self.red = pixel_values[:, 0] - pixel_values[:, 1:].amax(dim=1) > REDNESS
        return (torch.zeros(len(pixel_values), 2, 2, 3),)

    def box_predictor(self, features: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        boxes = []
        for red in self.red:
            rows, columns = (torch.nonzero(red.any(dim=1 - axis)).flatten() for axis in (0, 1))
            high, wide = (len(line) / red.shape[0] for line in (rows, columns))
            boxes.append([columns.float().mean() / 160 + 0.5 / 160, rows.float().mean() / 160 + 0.5 / 160, wide, high])
        return torch.tensor(boxes)[:, None].repeat(1, 4, 1)

    def class_predictor(self, features: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor]:
        logits = torch.full((len(features), 4, texts.shape[1]), -9.0)
        logits[:, 2, 0] = 3.0
        return (logits,)


def reddest(kind: str) -> Owl:
    """The stand-in behind the real processor of its kind."""
    name = {"owlvit": "OwlViTImageProcessor", "owlv2": "Owlv2ImageProcessor"}[kind]
    processor = getattr(transformers, name)(size={"height": 160, "width": 160})
    return Owl(Reddest(), None, processor, {"model": "reddest"}, "cpu", "fp32")


def painted(upright: Image.Image) -> Image.Image:
    """With what is red at BOX."""
    left, top, right, bottom = (round(share * side) for share, side in zip(BOX, upright.size * 2, strict=True))
    upright.paste((230, 10, 10), (left, top, right, bottom))
    return upright


def stored_as(upright: Image.Image, orientation: int) -> Image.Image:
    """The picture turned so that EXIF's orientation turns it back."""
    back = {6: 8, 8: 6}.get(orientation, orientation)  # the other turns are their own way back
    return upright.transpose(pixels.TURNS[back]) if back > 1 else upright


def as_jpeg(stored: Image.Image, exif: Image.Exif) -> bytes:
    file = BytesIO()
    stored.save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    return file.getvalue()


def with_a_red_box(width: int, height: int, orientation: int) -> bytes:
    """A JPEG whose upright picture has this size."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return as_jpeg(stored_as(painted(Image.new("RGB", (width, height), (120, 130, 140))), orientation), exif)


def located(model: Owl, data: list[bytes]) -> list[list[float]]:
    """The box that is found in each picture, on the way that `annotate` takes."""
    detector = Detector.__new__(Detector)  # without words: the stand-in reads none
    detector.model, detector.asked, detector.queries, detector.vectors = model, asked(), QUERIES, torch.zeros(3, 4)
    made = [prepare(one, [model])[0] for one in data]
    sizes = np.array([one.size for one in made if one])
    seen = model.encode(np.stack([one.of_models[0] for one in made if one]))
    found = detector.find(seen, sizes)
    assert all(objects and [one.label for one in objects] == ["bicycle"] for objects in found)
    return [list(objects[0][2:]) for objects in found if objects]


@pytest.mark.parametrize("kind", owls.KINDS)
@pytest.mark.parametrize("size", [(640, 200), (200, 640), (400, 400), (1800, 1200), (70, 90)])
def test_boxes_land_where_the_picture_shows_it(kind: str, size: tuple[int, int]) -> None:
    """Whether EXIF turns it, decoding makes it smaller, and the processor pads or stretches it."""
    found = located(reddest(kind), [with_a_red_box(*size, orientation) for orientation in range(1, 9)])
    # A pixel or so of the network's square, of which a padded picture fills a part; blurring takes the edges' red away.
    shares = np.array(size) / max(size) if kind == "owlv2" else np.ones(2)
    tolerance = np.tile(2.5 / 160 / shares, 2)
    assert (np.abs(np.array(found) - BOX) <= tolerance).all(), found


@pytest.fixture(scope="module", params=["Landscape", "Portrait"])
def cameras(request: pytest.FixtureRequest, shared_data: Path) -> list[bytes]:
    """A real photo stored in eight ways, made grey but for a red box of ours: the answer is known."""
    data = []
    for orientation in range(1, 9):
        file = shared_data / "exif_orientation" / f"{request.param}_{orientation}.jpg"
        upright = imaging.decode(file.read_bytes(), max_pixels=imaging.PILLOW_CEILING)
        with Image.open(file) as image:
            assert pixels.orientation(image) == orientation
            stored = stored_as(painted(upright.convert("L").convert("RGB")), orientation)
            assert stored.size == image.size
            data.append(as_jpeg(stored, image.getexif()))
    return data


@pytest.mark.parametrize("kind", owls.KINDS)
def test_boxes_of_photos_that_cameras_turned(kind: str, cameras: list[bytes]) -> None:
    found = np.array(located(reddest(kind), cameras))
    assert (np.abs(found - BOX) <= 0.03).all(), found


def test_a_panorama_is_padded_to_no_more_than_a_few_sides() -> None:
    """The library blurs the whole square: 9,600 × 960 pixels took it 11 GB and ten minutes."""
    model, given = reddest("owlv2"), []
    pad = model.processor

    def watched(image: Image.Image, **how: Any) -> Any:
        given.append(image.size)
        return pad(image.crop((0, 0, min(image.width, 480), image.height)), **how)

    model.processor = watched
    panorama = noise(3200, 160)
    assert model.preprocess(panorama).shape == (160, 160, 3) and panorama.size == (3200, 160)
    model.preprocess(noise(480, 320))
    model.preprocess(noise(6000, 2))
    assert given == [(480, 24), (480, 320), (480, 1)]


def test_padding_holds_nothing(folders: dict[str, Path]) -> None:
    """Boxes end with the picture, and those that lie beside it are none."""
    model = load(folders["owlv2"])
    [objects] = find(model, [noise(200, 40)], threshold=1e-6, top=10_000)
    assert objects
    for one in objects:
        assert 0 <= one.x0 < one.x1 <= 1 and 0 <= one.y0 < one.y1 <= 1
    [everything] = find(model, [noise(40, 40)], threshold=1e-6, top=10_000)
    assert everything and len(objects) < len(everything)


# --- what is found ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", owls.KINDS)
def test_scores_and_boxes_are_those_of_the_library(kind: str, folders: dict[str, Path]) -> None:
    """Of the whole way that its authors describe: processor, network, post-processing."""
    folder, image = folders[kind], noise(90, 60)
    net = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    texts = [f"a photo of a {query}" for query in QUERIES]
    words = transformers.AutoTokenizer.from_pretrained(folder)(
        texts, padding="max_length", max_length=owls.CONTEXT, return_tensors="pt"
    )
    with torch.inference_mode():
        out = net(**words, **processor(image, return_tensors="pt"))
    [theirs] = processor.post_process_object_detection(out, threshold=0.0, target_sizes=torch.tensor([[60, 90]]))

    model = load(folder)
    seen = model.encode(model.preprocess(image)[None])
    [best], [scores] = model.scores(seen, Detector(model, asked()).vectors)
    x, y = model.extent(90, 60)
    boxes = seen.boxes[0].numpy() / np.array([x, y, x, y])
    assert scores == pytest.approx(theirs["scores"].numpy(), abs=0.02)  # pixels are rounded to eight bits
    assert np.mean(best == theirs["labels"].numpy()) > 0.95 and len(set(best.tolist())) > 1
    assert boxes * [90, 60, 90, 60] == pytest.approx(theirs["boxes"].numpy(), abs=0.5)


@pytest.mark.parametrize("kind", owls.KINDS)
def test_bf16_finds_the_same(kind: str, folders: dict[str, Path]) -> None:
    image = noise(90, 60)
    seen = {}
    for precision in ("fp32", "bf16"):
        model = load(folders[kind], precision)
        seen[precision] = model.encode(model.preprocess(image)[None])
    assert seen["bf16"].boxes.dtype == torch.float32
    assert seen["bf16"].boxes.numpy() == pytest.approx(seen["fp32"].boxes.numpy(), abs=0.01)


def test_the_best_come_first_and_no_more_than_asked_for(folders: dict[str, Path]) -> None:
    model = load(folders["owlvit"])
    images = [noise(80, 60), noise(60, 80)]
    found = find(model, images)
    assert [len(objects or ()) > 3 for objects in found] == [True, True]
    for objects in found:
        scores = [one.score for one in objects or ()]
        assert scores == sorted(scores, reverse=True) and scores[-1] >= 0.01
        assert {one.label for one in objects or ()} <= set(QUERIES)
    assert find(model, images, top=2) == [objects and objects[:2] for objects in found]
    bound = found[0][2].score if found[0] else 1.0
    assert find(model, images[:1], threshold=bound)[0] == found[0][:3]
    assert find(model, images, threshold=0.999999) == [[], []]


def test_numbers_that_are_none_are_told(folders: dict[str, Path]) -> None:
    model = load(folders["owlvit"])
    seen = model.encode(np.stack([model.preprocess(noise(80, 60))] * 2))
    seen.features[1, 0] = torch.nan
    first, second = Detector(model, asked()).find(seen, np.array([[80, 60]] * 2))
    assert first and second is None


def test_an_object_is_told_once() -> None:
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 3.9], [0, 0, 4, 1.9], [10, 10, 12, 12], [0, 0, 4, 4]], np.float32) / 16
    assert distinct(boxes, np.array([1, 1, 1, 1, 2])).tolist() == [0, 2, 3, 4]
    assert distinct(boxes, np.array([1, 1, 1, 1, 1])).tolist() == [0, 2, 3]
    assert distinct(boxes[:0], np.zeros(0, int)).tolist() == []


def test_pixels_are_the_same_one_by_one_and_together(folders: dict[str, Path]) -> None:
    model = load(folders["owlv2"])
    batch = np.stack([model.preprocess(noise(80, 60 + n)) for n in range(5)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "batch", 2)
        together = model.encode(batch)
    assert together.boxes.shape == (5, (owls.SIDE // owls.PATCH) ** 2, 4)
    alone = torch.cat([model.encode(one[None]).boxes for one in batch])
    assert together.boxes.numpy() == pytest.approx(alone.numpy(), abs=1e-5)


# --- what cannot be used ----------------------------------------------------------------------------------------------


def test_a_query_is_read_whole(folders: dict[str, Path]) -> None:
    with pytest.raises(
        UserError, match=r"'a photo of a b{30}' is too long .* 41 tokens, and local-dir:owlv2 reads 40$"
    ):
        Detector(load(folders["owlv2"]), asked(queries=("cat", "b" * 30)))


def _without(name: str, folder: Path) -> None:
    (folder / name).unlink()


def _rewritten(name: str, change: dict[str, Any], folder: Path) -> None:
    said = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(said | change))


def _without_a_head(folder: Path) -> None:
    import safetensors.torch

    kept = safetensors.torch.load_file(folder / "model.safetensors")
    del kept["box_head.dense0.weight"]
    safetensors.torch.save_file(kept, folder / "model.safetensors", {"format": "pt"})


DAMAGES = {
    "there is no config.json in this folder": partial(_without, "config.json"),
    "there is no model.safetensors and no pytorch_model.bin": partial(_without, "model.safetensors"),
    "there is no preprocessor_config.json and no processor": partial(_without, "preprocessor_config.json"),
    "is a clip: objects are found by an owlvit or owlv2": partial(_rewritten, "config.json", {"model_type": "clip"}),
    "does not hold local-dir:": lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"),
    "box_head.dense0.weight is not there": _without_a_head,
    "must give the whole picture at 64 × 64 pixels": partial(
        _rewritten, "preprocessor_config.json", {"size": {"height": 64, "width": 32}}
    ),
}


@pytest.mark.parametrize("told", DAMAGES)
def test_what_is_no_such_model_is_said_in_a_line(told: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["owlvit"], tmp_path / "damaged"))
    DAMAGES[told](folder)
    with pytest.raises(UserError, match=told) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_the_library_may_be_missing(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the transformers package: pip install 'tintype\[transformers\]'$"):
        repository.checkpoint(f"local-dir:{folders['owlvit']}")


def test_a_hub_that_cannot_be_reached_is_said_in_a_line(hub: Path) -> None:
    with pytest.raises(UserError, match=r"no connection\): fetch its repository .* model: local-dir:") as error:
        repository.checkpoint("google/owlv2-base-patch16-ensemble")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be fetched"):
        repository.checkpoint("no name at all")


def test_what_the_hub_gave_before_is_used_without_it(hub: Path, folders: dict[str, Path]) -> None:
    kept = hub / "models--google--owlv2-tiny"
    shutil.copytree(folders["owlv2"], kept / "snapshots" / "abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    path, sha256 = repository.checkpoint("google/owlv2-tiny")
    assert path.name == "model.safetensors" and len(sha256) == 64
    model = owl.load("google/owlv2-tiny", path, device="cpu")
    assert model.identity()["model"] == "google/owlv2-tiny" and model.identity()["preprocessing"]["pad"]
