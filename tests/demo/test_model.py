"""The model that the demo ships, loaded by OpenCLIP alone."""

from pathlib import Path

import open_clip
import torch
from PIL import Image

from pipeline.training import pictures
from tests.demo.unseen import evaluate

MODEL = Path(__file__).parents[2] / "pipeline" / "demo" / "model"


def test_the_model_is_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 20_000_000


def test_it_finds_and_names_unseen_scenes() -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{MODEL}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MODEL}")
    scenes = pictures.unseen_scenes(300)
    pixels = torch.stack([preprocess(Image.fromarray(picture)) for picture in pictures.render(scenes, 72)])
    figures = evaluate(model.eval(), scenes, pixels, tokenizer, lambda ids: tokenizer.decode(ids).strip(), 150)
    assert figures.precision >= 0.9 and figures.captions >= 0.9 and figures.arithmetic >= 0.8, str(figures)
