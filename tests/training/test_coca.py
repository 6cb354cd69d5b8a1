import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional

from pipeline.training import coca, model, pictures, texts

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "head_width": 16,
        "layers": 1,
        "attentional_pool": True,
        "attn_pooler_queries": 5,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    "custom_text": True,
}
PREPROCESS = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder that lacks its weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / model.CONFIG).write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}))
    return folder


@pytest.fixture(scope="module")
def batches() -> Iterator[coca.Batch]:
    scenes = list(itertools.islice(pictures.training_scenes(), 256))
    tokenize = coca.narrowed(model.tokenizer(CONFIG), _vocabulary())
    return coca.batches(scenes, pictures.render(scenes, 32), tokenize, coca.normalizer(PREPROCESS), random.Random(0))


def _vocabulary() -> list[int]:
    return texts.vocabulary(lambda words: model.tokenizer(CONFIG)(words).numpy())


def test_a_batch_holds_twins_and_true_labels(batches: Iterator[coca.Batch]) -> None:
    batch = next(batches)
    assert batch.pixels.shape == (128, 3, 32, 32) and batch.captions.shape == (128, 24)
    assert batch.true.shape == (128, len(batch.phrases))
    assert (batch.true.sum(dim=1) >= 3).all()  # a kind, a place and a medium at the least


def test_steps_of_training_lessen_both_losses(batches: Iterator[coca.Batch]) -> None:
    torch.manual_seed(0)
    run = coca.start(CONFIG, _vocabulary())
    unused = 49408 - len(_vocabulary())
    told = [coca.learn(run, next(batches), unused, 3e-3) for _ in range(40)]
    first, last = np.mean(told[:5], axis=0), np.mean(told[-5:], axis=0)
    assert last[0] < 0.7 * first[0] and last[1] < 0.8 * first[1], (first, last)
    assert run.step == 40


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [coca.rate(progress / 100) for progress in range(101)]
    assert rates[0] < rates[1] < rates[3] == max(rates)
    assert rates[3:] == sorted(rates[3:], reverse=True) and rates[100] == pytest.approx(0.0)


def test_openclip_loads_what_was_trained(folder: Path, batches: Iterator[coca.Batch]) -> None:
    torch.manual_seed(1)
    small = model.build(CONFIG, _vocabulary()).eval()
    model.save(small.state_dict(), _vocabulary(), 49408, folder)
    full = open_clip.create_model(f"local-dir:{folder}").eval()
    batch = next(batches)
    ids = torch.tensor(_vocabulary())[batch.captions]
    with torch.no_grad():
        narrow, wide = small(batch.pixels, batch.captions), full(batch.pixels, ids)
    for part in ("image_features", "text_features"):
        torch.testing.assert_close(narrow[part], wide[part], atol=5e-3, rtol=0)
    torch.testing.assert_close(narrow["logits"], wide["logits"][..., _vocabulary()], atol=2e-2, rtol=0)
    unused = np.setdiff1d(np.arange(49408), _vocabulary())
    assert not wide["logits"][..., unused].any()


def test_unused_tokens_count_as_the_saved_model_counts_them(folder: Path, batches: Iterator[coca.Batch]) -> None:
    small = model.build(CONFIG, _vocabulary()).eval()
    model.save(small.state_dict(), _vocabulary(), 49408, folder)
    full = open_clip.create_model(f"local-dir:{folder}").eval()
    batch = next(batches)
    ids = torch.tensor(_vocabulary())[batch.captions]
    with torch.no_grad():
        captioning, _ = coca.losses(small, torch.tensor(0.0), batch, 49408 - len(_vocabulary()))
        out = full(batch.pixels, ids)
    expected = functional.cross_entropy(out["logits"].flatten(0, 1), out["labels"].flatten(), ignore_index=0)
    assert captioning.item() == pytest.approx(expected.item(), rel=2e-2)


def test_a_run_goes_on_from_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    for minutes, resume in ((0.03, False), (0.06, True)):
        coca.train(folder, tmp_path, minutes, 0, resume, lines.append, pool=256, unseen=60)
    steps = [int(line.split()[1].strip(",")) for line in lines if line.startswith("step")]
    resumed = next(int(line.split()[3].strip(",")) for line in lines if line.startswith("resumed"))
    assert resumed in steps and steps[-1] > resumed
    assert len([line for line in lines if line.startswith("precision@5")]) == 2
    assert (folder / model.WEIGHTS).stat().st_size < 10_000_000
