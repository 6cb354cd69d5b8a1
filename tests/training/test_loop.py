"""Trainings of a tiny model: they learn, they go on where they were killed, and what they leave is a model like any."""

import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from pipeline.demo.scenes import Scene, Thing
from pipeline.models import openclip
from pipeline.photo import UserError
from pipeline.training import batches, judge, launch, loop, scenes, steps, towers
from pipeline.training.examples import Joined, split
from pipeline.training.settings import TrainSettings
from pipeline.training.state import State
from tests.test_killed import drivers
from tests.training import tiny

Lines = list[dict[str, float]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("models") / "coca")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    out = tmp_path_factory.mktemp("trained")
    launch.here(tiny.settings(out, model), lambda line: None)
    return out


def history(out: Path) -> Lines:
    return list(json.loads((out / "history.json").read_text())["history"])


def train(out: Path, model: Path, others: dict[str, Any]) -> None:
    launch.here(tiny.settings(out, model, **others), lambda line: None)


def test_it_learns_and_is_judged_by_step(undisturbed: Path) -> None:
    lines = history(undisturbed)
    learnt = [line for line in lines if "loss" in line]
    assert [line["step"] for line in learnt] == list(range(1, 31))
    assert sum(line["captions"] for line in learnt[-5:]) < 0.85 * sum(line["captions"] for line in learnt[:5])
    assert sum(line["contrastive"] for line in learnt[-5:]) < 0.8 * sum(line["contrastive"] for line in learnt[:5])
    judged = [line for line in lines if "recall@1" in line]
    assert [line["step"] for line in judged] == [0, 15, 30]
    assert all(0 <= line[name] <= 1 for line in judged for name in ("recall@1", "recall@5", "captions right"))


def test_what_chance_cannot_tell_from_the_best_is_kept_late() -> None:
    """Of 100 photos the standard error of 0.8 is 0.04: what is nearer is as good, and has learnt more."""
    found: list[float] = []
    history: Lines = []
    for step, recall in enumerate([0.02, 0.5, 0.8, 0.77, 0.75, 0.765, 0.7]):
        history += [{"step": step, "loss": 1.0}, {"step": step, "photos": 100, "recall@1": recall}]
        best = State(cast(Any, None), cast(Any, None), None, None, step, history).best()
        assert best
        found.append(best["step"])
    assert found == [0, 1, 2, 3, 3, 5, 5]


def test_killed_three_times_it_ends_as_if_it_had_not_been(tmp_path: Path, model: Path, undisturbed: Path) -> None:
    dice = random.Random(4)
    out = tmp_path / "killed"
    for kill in range(3):
        driver = drivers.Process(target=train, args=(out, model, {}))
        driver.start()
        until = 5 + 8 * kill + dice.randrange(4)
        while driver.is_alive() and steps_saved(out) < until:
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.3))
        assert driver.is_alive(), "it ended before it was killed"
        driver.kill()
        driver.join()
    train(out, model, {})
    one, other = history(undisturbed), history(out)
    assert [line["step"] for line in one] == [line["step"] for line in other]
    assert other[-2]["loss"] == pytest.approx(one[-2]["loss"], rel=0.02)


def steps_saved(out: Path) -> int:
    try:
        return int(history(out)[-1]["step"])
    except (FileNotFoundError, IndexError):
        return -1


def test_what_is_kept_is_a_model_of_openclip_with_full_tables(undisturbed: Path) -> None:
    loaded = openclip.load(f"local-dir:{undisturbed / 'model'}", None, device="cpu", precision="fp32")
    vectors = loaded.embed_texts(["a red sailboat", "a blue tent"])
    assert vectors.shape == (2, 32) and not (vectors[0] == vectors[1]).all()
    table = loaded.net.text.token_embedding.weight
    assert table.shape == (49408, 32) and (table == 0).all(dim=1).sum() > 49000


def test_a_finished_training_does_nothing_more(undisturbed: Path, model: Path) -> None:
    before = (undisturbed / "checkpoint.pt").stat().st_mtime_ns
    train(undisturbed, model, {})
    assert (undisturbed / "checkpoint.pt").stat().st_mtime_ns == before


def test_another_training_is_refused_in_the_same_folder(undisturbed: Path, model: Path) -> None:
    with pytest.raises(UserError, match=r"other settings \(learning_rate\): name another out"):
        train(undisturbed, model, {"learning_rate": 0.1})


def test_a_start_of_which_much_is_kept(tmp_path: Path, undisturbed: Path) -> None:
    """Only the heads are trained, and half of the result is the start: the rest of the weights are as they were."""
    start = undisturbed / "model"
    more = {"from_scratch": False, "steps": 4, "mix": 0.5, "unlocked": {"image": "head", "text": "none"}}
    train(tmp_path, start, {**more, "loss": {"contrastive": "infonce"}, "validation": {"share": 0.2, "every": 4}})
    before, after = (
        openclip.network(f"local-dir:{at}", None, at / "open_clip_model.safetensors")[0].state_dict()
        for at in (start, tmp_path / "model")
    )
    changed = {name for name, value in before.items() if not value.equal(after[name])}
    if json.loads((tmp_path / "history.json").read_text())["best"]["step"]:
        assert changed
    assert all(
        name.startswith(("visual.attn_pool", "visual.ln_post", "visual.proj", "logit_scale")) for name in changed
    )


def test_vectors_stay_near_those_of_the_start(tmp_path: Path, undisturbed: Path) -> None:
    moved = {}
    for keep in (1e-9, 50.0):
        out = tmp_path / str(keep)
        loss = {"contrastive": "infonce", "keep": keep}
        train(out, undisturbed / "model", {"from_scratch": False, "steps": 10, "loss": loss})
        moved[keep] = [line["moved"] for line in history(out) if "moved" in line]
        assert len(moved[keep]) == 10 and moved[keep][0] == pytest.approx(0, abs=1e-5)
    assert moved[50.0][-1] < 0.5 * moved[1e-9][-1]


def refused(out: Path, model: Path, **others: Any) -> str:
    with pytest.raises(UserError) as told:
        train(out, model, others)
    return str(told.value)


def test_what_cannot_be_trained_is_said_in_one_line(tmp_path: Path, model: Path) -> None:
    clip = tiny.folder(tmp_path / "clip", tiny.CLIP)
    assert "writes no captions" in refused(tmp_path, clip)
    assert "without a rest" in refused(tmp_path, model, accumulate=5)
    assert "know nothing to be kept" in refused(tmp_path, clip, loss={"keep": 1.0})
    known = [{"kind": "scenes", "pictures": 240, "known": True}]
    assert "known is for loss.keep" in refused(tmp_path, model, data=known)
    assert "nothing is left to train" in refused(tmp_path, clip, loss={}, unlocked={"image": "none", "text": "none"})
    assert "9 blocks of a tower that has 2" in refused(tmp_path, clip, loss={}, unlocked={"image": 9})
    assert "no weights in this folder" in refused(tmp_path, model, from_scratch=False)
    assert "takes runner: ray" in refused(tmp_path, model, workers=2)
    assert "texts: 31 are fewer than the 32 of batch" in refused(tmp_path, model, texts=31)
    assert "leave it out, or pretrained: openai" in refused(tmp_path, model, pretrained="openai")


@pytest.mark.parametrize("held", [b"not ours", b"", {"model": 1}, [1]])
def test_a_checkpoint_of_others_is_refused(tmp_path: Path, model: Path, held: object) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(held) if isinstance(held, bytes) else torch.save(held, path)
    assert f"{path} is not of a training: name another out" in refused(tmp_path, model)


def test_other_words_than_before_are_refused_where_only_those_are_trained(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of its tables would be those of other tokens."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    classes(tmp_path / "set", ["boat", "tent"])
    data = {"kind": "labelled", "path": str(tmp_path / "set"), "templates": ["two {}s", "{}."]}
    asked = {"data": [data], "batch": 4, "texts": None, "loss": {}, "steps": 2, "validation": {"share": 0.4}}
    train(tmp_path / "out", model, asked)  # a template may make another token of a word
    (tmp_path / "set" / "tent").rename(tmp_path / "set" / "yurt")
    assert "the data have other words than when" in refused(tmp_path / "out", model, **asked)


def classes(folder: Path, names: list[str]) -> None:
    """Eight pictures of each class."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (32, 32), (30 * number, 0, 99)).save(folder / name / f"{number}.png")


def test_tokens_in_use_are_those_that_texts_have() -> None:
    """As a whole: the tokenizer mends letters that were garbled, by those around."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    for text in ("voil\u00c3 la mill", "it\u00e2\u20ac\u2122s \u00e2\u20ac\u0153 a mill", "a red boat"):
        known = towers.vocabulary(tokenizer, [text])
        assert (towers.narrowed(tokenizer, known)([text]) >= 0).all()
        assert set(known) == {0, *tokenizer([text]).flatten().tolist()}


def test_a_gradient_that_is_no_number_ends_it(tmp_path: Path, model: Path) -> None:
    """Though the loss still is one: the weights are lost, and no checkpoint shall have them."""
    work = loop.prepare(tiny.settings(tmp_path, model, save_every=1), steps.World(), "cpu")
    work.net.logit_scale.register_hook(lambda towards: towards * math.inf)
    with pytest.raises(UserError, match="no number at step 1"):
        loop.run(work, lambda line: None)
    assert not (tmp_path / "checkpoint.pt").exists()


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def examples() -> Joined:
    asked = tiny.settings(Path("nowhere"), Path("nowhere"), data=[{"kind": "scenes", "pictures": 240}])
    return Joined([(scenes.Scenes(asked.data[0], 32, lambda items, *_: items), ("a photo of {}", "{}"))])  # type: ignore[arg-type]


def test_a_batch_says_what_is_true(examples: Joined) -> None:
    rows, kept = split(examples.ids, 0.2, 1000)
    batch = batches.plan(examples, batches.groups(rows, 2), 3, size=16, texts=24, seed=1)
    assert not set(batch.rows) & set(kept)
    assert all(one + 1 == other for one, other in zip(batch.rows[::2], batch.rows[1::2], strict=True))
    said = [text.removeprefix("a photo of ") for text in batch.texts]
    assert len(set(said)) == len(said) and any(text.startswith("a photo of ") for text in batch.texts)
    for i, row in enumerate(batch.rows):
        assert batch.true[i].tolist() == [text in examples.claims(row) for text in said]
        assert batch.true[i, batch.own[i]] and batch.captions[i] == examples.caption(row)
    assert not (batch.true & batch.confusable).any()


def test_a_text_may_find_any_photo_that_it_is_true_of(examples: Joined) -> None:
    """Of a scene of two things and its mirrored picture either caption is right."""
    half = len(examples.ids) // 2
    two = next(row for row in range(half) if " and " in (examples.caption(row) or ""))
    one = next(row for row in range(half) if " and " not in (examples.caption(row) or ""))
    texts, pairs = judge.questions(examples, [two, one, two + half])
    assert texts == [examples.caption(two), examples.caption(one), examples.caption(two + half)]
    found = {text: set(pairs[pairs[:, 0] == number, 1].tolist()) for number, text in enumerate(texts)}
    said = [text in examples.claims(row) for text, row in ((texts[0], two + half), (texts[2], two))]
    assert said == [True, True]
    assert found[texts[0]] == found[texts[2]] == {0, 2} and 1 in found[texts[1]]


def test_what_the_model_knew_is_told_from_the_rest(examples: Joined) -> None:
    [(photos, templates)] = examples.sources
    two = Joined([(photos, templates), (photos, templates)], [False, True])
    batch = batches.plan(two, np.arange(len(two.ids))[:, None], 0, size=32, texts=48, seed=0)
    pictures, texts = batch.knew
    assert pictures.tolist() == [row >= len(photos.ids) for row in batch.rows]
    assert 0 < texts.sum() < len(texts) == len(batch.texts)
    free = Joined([(photos, templates)], [False])
    assert free.knew(0)  # where nothing is marked


def test_other_texts_are_of_the_steps_pictures_or_of_all(examples: Joined) -> None:
    among = np.arange(len(examples.ids))[:, None]
    near, far = (
        batches.plan(examples, among, 0, size=16, texts=128, seed=0, absent=absent) for absent in (False, True)
    )
    assert near.true.any(axis=0).all() and near.rows == far.rows and near.texts[:4] == far.texts[:4]
    assert not far.true.any(axis=0).all() and far.true[range(16), far.own].all()


def test_an_epoch_shows_each_photo_once(examples: Joined) -> None:
    rows, _ = split(examples.ids, 0.2, 1000)
    among = batches.groups(rows, 2)
    size = 8
    shown = [row for step in range(among.size // size) for row in batches.plan(
        examples, among, step, size=size, texts=size, seed=0).rows]  # fmt: skip
    assert len(shown) == len(set(shown)) and set(shown) <= set(rows)


def test_words_that_are_there_but_not_together_confuse() -> None:
    both = Scene(1, (Thing("sailboat", "red"), Thing("tent", "blue")), "at sea", "photograph")
    texts = ["a red tent", "a blue tent", "a red sailboat at sea", "a green tent"]
    [row] = batches.confusable(texts, [scenes.claims(both)])
    assert row.tolist() == [True, True, True, False]
    assert [text in scenes.claims(both) for text in texts] == [False, True, True, False]


def test_claims_of_a_scene() -> None:
    sepia = Scene(2, (Thing("sailboat", "red"),), "at sea", "sepia print")
    assert set(scenes.claims(sepia)) == {
        "a sailboat", "a sailboat at sea", "a sepia print of a sailboat", "a sepia print of a sailboat at sea",
        "sailboat", "sailboat at sea", "sepia print of a sailboat", "sepia print of a sailboat at sea",
        "at sea", "sea", "a sepia print", "sepia print",
    }  # fmt: skip


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    asked: TrainSettings = tiny.settings(Path("x"), Path("x"), steps=100, warm_up=0.1, learning_rate=1.0)
    rates = [loop.rate(step, asked) for step in range(100)]
    assert rates[0] < rates[5] < max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[9:] == sorted(rates[9:], reverse=True) and rates[-1] == pytest.approx(0.0)


def test_a_name_that_is_not_utf8_has_its_side_too() -> None:
    ids = [os.fsdecode(b"file:caf\xe9-%d.jpg" % number) for number in range(100)]
    training, kept = split(ids, 0.5, 100)
    assert sorted([*training, *kept]) == list(range(100)) and 20 < len(kept) < 80


def test_validation_stays_when_photos_are_added() -> None:
    ids = [f"flickr:{number}" for number in range(2000)]
    training, kept = split(ids, 0.1, 50)
    assert len(kept) == 50 and 1700 < len(training) < 1900
    more, _ = split([*ids, "flickr:a", "flickr:b"], 0.1, 50)
    assert {ids[row] for row in training} <= {([*ids, "flickr:a", "flickr:b"])[row] for row in more}
