"""One tower alone: the same bytes as the whole model's, without the other's weights."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.models import halves, openclip
from pipeline.models.openclip import Model
from pipeline.photo import UserError
from tests.models.conftest import pixels

TEXTS = ["a red sailboat at sea", "a steam train"]


@pytest.fixture(scope="module")
def whole(folder: Path) -> Model:
    return openclip.load(f"local-dir:{folder}", None, device="cpu", precision="fp32")


@pytest.fixture(params=["safetensors", "pt"])
def checkpoint(request: pytest.FixtureRequest, whole: Model, folder: Path, tmp_path: Path) -> Path:
    given = folder / "open_clip_model.safetensors"
    if request.param == "safetensors":
        return given
    torch.save({"state_dict": safetensors.torch.load_file(given)}, tmp_path / "open_clip_model.pt")
    return tmp_path / "open_clip_model.pt"


def test_each_gives_the_bytes_of_the_whole(whole: Model, tiny: str, checkpoint: Path) -> None:
    # A plain name, because a folder's configuration lies beside its weights.
    model = openclip.load(tiny, str(checkpoint), precision="fp32")
    text, image = (
        openclip.load(tiny, str(checkpoint), precision="fp32", path=checkpoint, tower=tower)
        for tower in ("text", "image")
    )
    assert text.identity() == image.identity() == model.identity()
    np.testing.assert_array_equal(text.embed_texts(TEXTS), model.embed_texts(TEXTS))
    np.testing.assert_array_equal(image.embed_images(pixels(3)), model.embed_images(pixels(3)))
    np.testing.assert_array_equal(text.embed_texts(TEXTS), whole.embed_texts(TEXTS))
    names = [{name.partition(".")[0] for name in m.net.state_dict()} for m in (text, image)]
    assert names == [{"text", "logit_scale"}, {"visual", "logit_scale"}]
    assert text.side == model.side and text.batch == model.batch


@pytest.mark.parametrize("tower", ["text", "image"])
def test_only_its_weights_are_read_and_in_memory(
    folder: Path, tower: halves.Tower, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []
    create = openclip._create
    monkeypatch.setattr(openclip, "_create", lambda *given: devices.append(given[-1]) or create(*given))
    path = folder / "open_clip_model.safetensors"
    model = openclip.load(f"local-dir:{folder}", None, precision="fp32", path=path, tower=tower)
    assert devices == ["meta"]  # the network was never built in memory
    assert all(tensor.device.type == "cpu" for tensor in model.net.state_dict().values())


def test_random_weights_and_those_of_another_name_go_through_the_whole(tiny: str, folder: Path, tmp_path: Path) -> None:
    random = openclip.load(tiny, "random", precision="fp32", tower="text")
    whole = openclip.load(tiny, "random", precision="fp32")
    np.testing.assert_array_equal(random.embed_texts(TEXTS), whole.embed_texts(TEXTS))
    path = tmp_path / "text.pt"
    path.write_text("no weights")
    with pytest.raises(UserError, match="does not hold weights of tiny-coca"):
        openclip.load(tiny, str(path), path=path, tower="text")
