"""A tiny CoCa with random weights, in OpenCLIP's folder format and under a plain name."""

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import safetensors.torch

from tests.models import make_golden

VOCABULARY, END = 49_408, 49_407  # of OpenCLIP's own tokenizer
PREPROCESSING = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


def pixels(n: int = 24) -> np.ndarray:
    """uint8[n, 16, 16, 3]"""
    return np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)


def write_folder(folder: Path, seed: int = 7, end: float = 8.0) -> Path:
    folder.mkdir(parents=True)
    net = make_golden.build({"seed": seed, "end": end, "pad": 0.0}, VOCABULARY, (END, 0))
    safetensors.torch.save_file(net.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": make_golden.config(VOCABULARY), "preprocess_cfg": PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the same architecture among OpenCLIP's built-in ones."""
    path = tmp_path_factory.mktemp("configs") / "tiny-coca.json"
    path.write_text(json.dumps(make_golden.config(VOCABULARY)))
    open_clip.add_model_config(path)
    return "tiny-coca"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's library, and a hub that cannot be reached."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"
