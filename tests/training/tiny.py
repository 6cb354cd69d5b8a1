"""A tiny model of each kind, without weights, and what is needed to train it in seconds."""

import json
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.training.settings import TrainSettings

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
POOLED = {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2, "output_tokens": True}
PREPROCESS = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
COCA = {
    "embed_dim": 32,
    "vision_cfg": VISION | POOLED,
    "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": TEXT,
    "custom_text": True,
}
CLIP = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}


def folder(place: Path, model: dict[str, Any] = COCA) -> Path:
    """A model folder that lacks its weights."""
    place.mkdir(parents=True)
    (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": PREPROCESS}))
    return place


def settings(out: Path, model: Path, **others: Any) -> TrainSettings:
    """Of a training from nothing on a few drawn scenes, in this process."""
    given: dict[str, Any] = {
        "out": str(out),
        "model": f"local-dir:{model}",
        "from_scratch": True,
        "data": [{"kind": "scenes", "pictures": 240}],
        "steps": 30,
        "batch": 32,
        "texts": 40,
        "runner": "local",
        "precision": "fp32",
        "learning_rate": 3e-3,
        "tokens": "used",
        "save_every": 5,
        "loss": {"contrastive": "sigmoid", "captions": 1.0, "confusable": 4.0},
        "validation": {"share": 0.2, "photos": 40, "captions": 4, "every": 15},
    }
    return config.validated(TrainSettings, given | others, "a test")
