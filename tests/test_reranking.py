"""`rerank`: drawn scenes behind a server that answers as Unsplash does, put into order by the demo's model."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import rerank
from pipeline.checker import Checker
from pipeline.cli import main
from pipeline.demo import scenes
from pipeline.demo.scenes import Scene, Thing
from pipeline.models import openclip
from pipeline.photo import UserError
from pipeline.rerank import pictures, printed
from pipeline.sources.unsplash import UnsplashSource
from tests.test_contact_sheet import Page
from tests.unsplash_server import KEY, REFUSED, SPENT, Reply, Unsplash, jpeg, serve

MODEL = Path(__file__).parents[1] / "pipeline" / "demo" / "model"
ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
# In the order of the service, which looks at words: red sailboats come last.
SHOWN = ["green windmill", "red umbrella", "blue sailboat", "yellow elephant", "red sailboat", "red sailboat"]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSPLASH_ACCESS_KEY", KEY)


def draw(number: int, what: str) -> bytes:
    colour, kind = what.split()
    return jpeg(scenes.draw(Scene(500_000 + number, (Thing(kind, colour),), scenes.PLACES[0], "photograph"), 400, 267))


@pytest.fixture(scope="module")
def drawn() -> list[bytes]:
    return [draw(number, what) for number, what in enumerate(SHOWN)]


@pytest.fixture
def unsplash(drawn: list[bytes]) -> Iterator[Unsplash]:
    with serve() as unsplash:
        for number, (what, data) in enumerate(zip(SHOWN, drawn, strict=True)):
            unsplash.add(f"n{number}", data, description=f"A {what}")
        yield unsplash


def run(unsplash: Unsplash, *words: object) -> list[str]:
    return ["rerank", "sailboat", "--model", f"local-dir:{MODEL}", "--api-url", unsplash.url, *map(str, words)]


def say(unsplash: Unsplash, capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """What the command prints as JSON."""
    assert main(run(unsplash, *words, "--json")) == 0
    return json.loads(capsys.readouterr().out)


def test_the_model_puts_first_what_the_words_say(unsplash: Unsplash, capsys: pytest.CaptureFixture[str]) -> None:
    said = say(unsplash, capsys, "--text", "a red sailboat")
    assert said["query"] == {"service": "unsplash", "query": "sailboat", "text": "a red sailboat", "n": 30}
    assert said["model"]["model"].startswith("local-dir:") and said["total"] == 6
    results = said["results"]
    assert {one["service_rank"] for one in results[:2]} == {5, 6}
    assert [one["rank"] for one in results] == [1, 2, 3, 4, 5, 6]
    assert all(one["moved"] == one["service_rank"] - one["rank"] for one in results)
    cosines = [one["cosine"] for one in results]
    assert cosines == sorted(cosines, reverse=True)
    assert results[0]["credit"] == "Photo by Jeff Sheldon on Unsplash"
    assert results[0]["license"] == {"id": None, "name": "Unsplash License", "url": "https://unsplash.com/license"}
    for link in ("page_url", "owner_url"):
        assert results[0][link].endswith("?utm_source=tintype&utm_medium=referral")
    assert said["not_seen"] == [] and said["agreement"]["kendall"] < 0 > said["agreement"]["spearman"]
    [(path, given)] = unsplash.calls  # and no download was told of
    assert path == "/search/photos" and given["query"] == "sailboat"
    assert len(unsplash.looks) == 6 and all("ixid=" in look for look in unsplash.looks)
    blue = say(unsplash, capsys, "--text", "a blue sailboat", "-n", 4)
    assert blue["results"][0]["service_rank"] == 3 and len(blue["results"]) == 4


def test_what_it_prints_and_writes(unsplash: Unsplash, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unsplash.rows[5] |= {"description": ATTACK, "user": {"name": ATTACK, "links": {"html": "javascript:alert(3)"}}}
    html = tmp_path / "both.html"
    assert main(run(unsplash, "--text", "a red sailboat", "-k", 3, "--html", html)) == 0
    shown = capsys.readouterr()
    assert str(html) in shown.err
    lines = shown.out.splitlines()
    first = next(line for line in lines if line.startswith("1 "))
    assert "A green windmill  now" in first and re.search(r"0\.\d{3}", first)
    assert re.search(r"↑ [45], by Unsplash [56]", first)
    assert "Photo by Jeff Sheldon on Unsplash" in shown.out and "Kendall's τ -0" in shown.out
    page = Page(html.read_text())
    assert not {"script", "svg"} & {tag for tag, _ in page.elements} and ATTACK in page.text
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    sources = [found["src"] or "" for found in page.all("img")]
    assert len(sources) == 6 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    links = {found["href"] or "" for found in page.all("a")}
    assert all(link.startswith("https://unsplash.com/") for link in links)
    credited = "?utm_source=tintype&utm_medium=referral"
    assert f"https://unsplash.com/@ugmonk{credited}" in links and "https://unsplash.com/license" in links
    assert "Photo by Jeff Sheldon on Unsplash" in page.text and page.text.index("Unsplash’s order") < page.text.index(
        "Ours"
    )
    assert KEY not in shown.out + shown.err + html.read_text()


def test_pictures_that_cannot_be_had_are_told_of(
    unsplash: Unsplash, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "SILENCE_S", 0.3)
    monkeypatch.setattr(pictures, "PICTURE_S", 1.0)
    unsplash.pictures["n0"] = b"<!doctype html><title>not here</title>" + b" " * 40
    unsplash.pictures["n1"] = unsplash.pictures["n2"][:-500]  # type: ignore[index]
    del unsplash.pictures["n2"]
    unsplash.pictures["n3"] = 5.0
    unsplash.rows[4]["urls"] = None
    said = say(unsplash, capsys, "--text", "a red sailboat")
    assert [(one["service_rank"], one["reason"]) for one in said["not_seen"]] == [
        (1, "not_an_image"), (2, "truncated"), (3, "gone"), (4, "unreachable"), (5, "no_size"),
    ]  # fmt: skip
    assert all(one["detail"] and one["credit"] and one["page_url"] for one in said["not_seen"])
    [only] = said["results"]
    assert (only["service_rank"], only["rank"], only["moved"]) == (6, 1, 0)
    assert said["agreement"] == {"kendall": None, "spearman": None}
    unsplash.pictures = {}
    assert main(run(unsplash)) == 1
    shown = capsys.readouterr().out
    assert "none of its pictures could be had" in shown and "not seen, by Unsplash 4: A yellow elephant" in shown
    unsplash.rows = []
    assert main(run(unsplash)) == 0
    assert "Unsplash finds nothing" in capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], status: int = 2) -> str:
    assert main(arguments) == status
    shown = capsys.readouterr()
    [line] = shown.err.splitlines()
    assert shown.out == "" and KEY not in line
    return line


def test_refusals(
    unsplash: Unsplash, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unsplash.faults = [Reply(SPENT, 403, {"X-Ratelimit-Limit": "50"}), Reply(REFUSED, 401)]
    assert "come back after" in refused(capsys, run(unsplash), 1)
    assert "check UNSPLASH_ACCESS_KEY" in refused(capsys, run(unsplash))
    assert "which model ranks" in refused(capsys, ["rerank", "a"])
    assert "which model ranks" in refused(capsys, ["rerank", "a", str(tmp_path), "--model", "b"])
    assert "goes with --model" in refused(capsys, ["rerank", "a", str(tmp_path), "--pretrained", "b"])
    assert "names an index" in refused(capsys, ["rerank", "a", "--model", "b", "--of", "c"])
    assert "no archive at" in refused(capsys, ["rerank", "a", str(tmp_path)])
    captioner = ["--model", "coca_ViT-B-32", "--pretrained", "mscoco_finetuned_laion2b_s13b_b90k"]
    assert "for captions only" in refused(capsys, ["rerank", "a", *captioner])
    assert "rerank what?" in refused(capsys, ["rerank", " ", *run(unsplash)[2:]])
    monkeypatch.delenv("UNSPLASH_ACCESS_KEY")
    assert "UNSPLASH_ACCESS_KEY is not set" in refused(capsys, run(unsplash))


def test_the_model_of_an_archive(unsplash: Unsplash, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerank", "boat", str(undisturbed), "--api-url", unsplash.url, "--json", "-n", "3"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["results"]) == 3 and said["query"]["text"] == "boat"


def test_cosines_are_the_models_own(unsplash: Unsplash, drawn: list[bytes]) -> None:
    model = openclip.load(f"local-dir:{MODEL}", None, device="cpu", precision="fp32")
    found = UnsplashSource("x", limit=6, api_url=unsplash.url).offers()
    with Checker(children=1) as checker:
        looked, unseen = rerank.look(found.offers, model.side, checker)
    assert [one.data for one in looked] == drawn and unseen == []
    ranked = rerank.order(rerank.embed(looked, unseen, found.total, model), "a windmill", model)
    assert [place.seen.service_rank for place in ranked.theirs] == [1, 2, 3, 4, 5, 6]
    for place in ranked.ours:
        np.testing.assert_allclose(place.cosine, place.seen.vector @ model.embed_texts(["a windmill"])[0], atol=1e-6)


def test_the_json_is_as_documented(unsplash: Unsplash, capsys: pytest.CaptureFixture[str]) -> None:
    document = (Path(__file__).parents[1] / "docs" / "tables.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```json\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)
    [example] = [json.loads(block) for block in blocks if '"not_seen"' in block]
    del unsplash.pictures["n0"]
    said = say(unsplash, capsys, "-n", 2)
    assert list(said) == list(example)
    for group in ("query", "model", "agreement"):
        assert list(said[group]) == list(example[group])
    for group in ("results", "not_seen"):
        [one], [documented] = said[group], example[group]
        assert list(one) == list(documented) and one["license"] == documented["license"]


def test_agreement() -> None:
    assert rerank.agreement(np.arange(5)) == (1, 1)
    assert rerank.agreement(np.arange(5)[::-1]) == (-1, -1)
    assert rerank.agreement(np.array([0])) == rerank.agreement(np.array([], int)) == (None, None)
    assert rerank.agreement(np.array([1, 0, 2])) == (pytest.approx(1 / 3), pytest.approx(0.5))


class Damaged:
    """A model that has no vector of its first picture, nor of the text "nothing"."""

    side = 16

    def preprocess(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((16, 16)))

    def embed_images(self, batch: np.ndarray) -> np.ndarray:
        found = np.eye(2, dtype=np.float32)[np.arange(len(batch)) % 2]
        found[0] = np.nan
        return found

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.array([[np.nan if text == "nothing" else 0.6, 0.8] for text in texts], np.float32)

    def identity(self) -> dict[str, Any]:
        return {}


def test_what_is_no_number_has_no_place(unsplash: Unsplash, drawn: list[bytes]) -> None:
    found = UnsplashSource("x", limit=6, api_url=unsplash.url).offers()
    looked = [pictures.Looked(rank, offer, drawn[rank - 1]) for rank, offer in enumerate(found.offers, 1)]
    pool = rerank.embed(looked, [], found.total, Damaged())
    ranked = rerank.order(pool, "boat", Damaged())
    assert [place.seen.service_rank for place in ranked.ours] == [2, 4, 6, 3, 5]
    said = rerank.told(ranked)
    assert [(one["service_rank"], one["reason"]) for one in said["not_seen"]] == [(1, "not_finite")]
    json.dumps(said, allow_nan=False)
    with pytest.raises(UserError, match="no finite vector of 'nothing'"):
        rerank.order(pool, "nothing", Damaged())


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a boat", "a boat"),
        ("boat " * 30, "boat " * 19 + "…"),
        ("舟" * 150, "舟" * 98 + " …"),
        ("b" * 100, "b" * 100),
    ],
)
def test_long_titles_are_cut(said: str, shown: str, unsplash: Unsplash) -> None:
    unsplash.rows[0]["description"] = said
    [offer] = UnsplashSource("x", limit=1, api_url=unsplash.url).offers().offers
    assert printed.title(offer) == shown and len(shown) <= printed.LONGEST
