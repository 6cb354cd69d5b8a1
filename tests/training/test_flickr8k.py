"""The textbook's configuration, conf/train_flickr8k.yaml, on a small set in both of Flickr8k's layouts."""

import json
from pathlib import Path

import pytest

from pipeline import config
from pipeline.demo.scenes import caption, draw, random_scene
from pipeline.models import openclip
from pipeline.photo import UserError
from pipeline.training import launch
from pipeline.training.settings import TrainSettings
from tests.models.test_dual_encoder import VISION, write_text_tower

CONF = Path(__file__).parents[2] / "conf" / "train_flickr8k.yaml"
PHOTOS = 24


@pytest.fixture(scope="module", params=["captions.txt", "Flickr8k.token.txt"])
def flickr8k(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings with five captions each, commas and quotes among them, laid out as the set's makers do it."""
    folder = tmp_path_factory.mktemp("flickr8k")
    pictures = folder / ("Images" if request.param == "captions.txt" else "Flicker8k_Dataset")
    pictures.mkdir()
    lines = []
    for seed in range(PHOTOS):
        scene = random_scene(seed)
        name = f"{1000268201 + seed}_693b08cb0e.jpg"
        draw(scene, 96, 72).save(pictures / name)
        said = caption(scene)
        for number, text in enumerate([said, f"{said} .", f"there is {said}", f"{said}, as it seems", f"“{said}”"]):
            key = name if request.param == "captions.txt" else f"{name}#{number}"
            lines.append(f"{key},{text}" if request.param == "captions.txt" else f"{key}\t{text}")
    if request.param == "captions.txt":
        (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    else:
        (folder / "Flickr8k_text").mkdir()
        (folder / "Flickr8k_text" / "Flickr8k.token.txt").write_text("\n".join(lines))
    return folder


def asked(out: Path, data: Path, **others: object) -> TrainSettings:
    sets = [f"out={out}", f"data.0.path={data}", "runner=local", "steps=3", "batch=8", "validation.every=3",
            "validation.share=0.4", *(f"{key}={value}" for key, value in others.items())]  # fmt: skip
    return config.validated(TrainSettings, config.given(str(CONF), sets), str(CONF))


def test_it_trains_and_gives_a_model(tmp_path: Path, flickr8k: Path) -> None:
    towers = write_text_tower(tmp_path / "bert", trained=False)
    launch.here(asked(tmp_path / "out", flickr8k, model=f"dual-encoder:{VISION}+{towers}", from_scratch=True), print)
    history = json.loads((tmp_path / "out" / "history.json").read_text())["history"]
    assert [line["step"] for line in history if "loss" in line] == [1, 2, 3]
    assert [line["step"] for line in history if "recall@1" in line] == [0, 3]
    loaded = openclip.load(f"local-dir:{tmp_path / 'out' / 'model'}", None, device="cpu", precision="fp32")
    assert loaded.embed_texts(["a red sailboat at sea"]).shape == (1, 256)


def test_towers_that_cannot_be_had_are_one_line(
    tmp_path: Path, flickr8k: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"resnet50.*; and .*distilbert-base-uncased") as told:
        launch.here(asked(tmp_path / "out", flickr8k), print)
    assert "\n" not in str(told.value)
