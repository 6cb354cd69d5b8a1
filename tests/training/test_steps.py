"""A step's gradient is that of the whole batch, in however many pieces and by however many workers it is computed."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.nn import functional

from pipeline.training import loop, losses, steps
from pipeline.training.settings import LossSettings, TrainSettings
from pipeline.training.steps import World
from pipeline.training.towers import Towers, set_training
from tests.test_killed import drivers
from tests.training import tiny

KINDS: list[dict[str, Any]] = [
    {"contrastive": "infonce"},
    {"contrastive": "sigmoid", "captions": 2.0, "confusable": 4.0},
    {"contrastive": "soft"},
    {"contrastive": "infonce", "keep": 2.0},
]


def settings(folder: Path, model: Path, loss: dict[str, Any], **others: Any) -> TrainSettings:
    """Where vectors are kept, those of some of the data alone."""
    scenes = {"kind": "scenes", "pictures": 240}
    data = [scenes, scenes | {"pictures": 160, "known": True}] if "keep" in loss else [scenes]
    return tiny.settings(folder, model, loss=loss, data=data, **others)


def gradients(asked: TrainSettings, world: World) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The losses of the first step, and its gradients by name."""
    work = prepared(asked, world)
    towers = Towers(work.net, asked, 49408 - len(work.vocabulary or ()), work.precision)
    set_training(towers)
    pieces, labels = loop.prepared(work, 0)
    said = steps.gradient(steps.over_workers(towers, world), asked, pieces, labels, world, 0)
    return said, {name: p.grad for name, p in towers.named_parameters() if p.grad is not None}


def prepared(asked: TrainSettings, world: World) -> loop.Work:
    """Where vectors are to be kept, those of other weights: at the very start they are where they shall stay."""
    if not asked.loss.keep:
        return loop.prepare(asked, world, "cpu")
    unmarked = tuple(replace(data, known=False) for data in asked.data)
    free = loop.prepare(replace(asked, data=unmarked, loss=replace(asked.loss, keep=0.0)), world, "cpu")
    dice = torch.Generator().manual_seed(7)
    before = copy.deepcopy(free.net).eval()
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=dice))
    examples = replace(free.examples, known=[data.known for data in asked.data])
    return replace(free, asked=asked, examples=examples, before=before)


def work(folder: str, rank: int, size: int, asked: list[TrainSettings]) -> None:
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
    torch.set_num_threads(1)
    found = [gradients(one, World(rank, size)) for one in asked]
    torch.save(found, Path(folder, f"{rank}.pt"))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("models") / "coca")


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys() and len(one) > 20
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def test_workers_have_the_gradient_of_one_process(tmp_path: Path, model: Path) -> None:
    """Vectors are gathered from both, whole and in pieces, and the gradient on each is that of the whole batch."""
    asked = [settings(tmp_path, model, loss, accumulate=n) for loss in KINDS for n in (1, 2)]
    workers = [drivers.Process(target=work, args=(str(tmp_path), rank, 2, asked)) for rank in range(2)]
    for worker in workers:
        worker.start()
    alone = [gradients(one, World()) for one in asked]
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    for rank in range(2):
        for (said, found), (theirs, together) in zip(alone, torch.load(tmp_path / f"{rank}.pt"), strict=True):
            assert theirs == pytest.approx(said, rel=1e-4)
            assert_equal(found, together)
    for whole, pieces in zip(alone[::2], alone[1::2], strict=True):
        assert pieces[0] == pytest.approx(whole[0], rel=1e-4)
        assert_equal(whole[1], pieces[1])


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3]])
def test_the_gradient_is_that_of_the_loss_as_it_is_written(tmp_path: Path, model: Path, kind: dict[str, Any]) -> None:
    """By autograd, in one go, from vectors to loss."""
    asked = settings(tmp_path, model, kind)
    said, found = gradients(asked, World())
    work = prepared(asked, World())
    work.net.train()
    [piece], labels = loop.prepared(work, 0)
    images = functional.normalize(work.net.encode_image(piece.pixels), dim=-1)
    texts = functional.normalize(work.net.encode_text(piece.texts), dim=-1)
    contrast = losses.infonce(work.net.logit_scale.exp() * images @ texts.T, labels.true)
    assert said["contrastive"] == pytest.approx(contrast.item(), rel=1e-5)
    loss = contrast
    if piece.before:
        far = []
        for vectors, before in zip([images, texts], piece.before, strict=True):
            held = before.norm(dim=1) > 0.5
            assert 0 < held.sum() < len(held)
            far.append(1 - functional.cosine_similarity(vectors[held], before[held]).mean())
        moved = torch.stack(far).sum()
        assert said["moved"] == pytest.approx(moved.item(), rel=1e-4) and moved.item() > 0.01
        loss = contrast + asked.loss.keep * moved
    loss.backward()
    assert said["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert_equal(found, {f"net.{name}": p.grad for name, p in work.net.named_parameters() if p.grad is not None})


def test_infonce_of_pairs_is_the_mean_of_two_cross_entropies() -> None:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    pairs = torch.arange(6)
    expected = (functional.cross_entropy(logits, pairs) + functional.cross_entropy(logits.T, pairs)) / 2
    assert losses.infonce(logits, torch.eye(6, dtype=torch.bool)).item() == pytest.approx(expected.item())


def test_texts_that_are_true_of_two_pictures_are_right_for_both() -> None:
    logits = torch.tensor([[9.0, -9.0], [9.0, -9.0], [-9.0, 9.0]])
    true = torch.tensor([[True, False], [True, False], [False, True]])
    assert losses.infonce(logits, true).item() == pytest.approx(0.5 * (2 / 2) * torch.log(torch.tensor(2.0)).item() / 2)
    assert losses.sigmoid(logits, true, torch.ones(3, 2)).item() < 0.001


def test_the_textbooks_targets_are_how_alike_pairs_are() -> None:
    """Two equal pairs: each may be taken for the other, and the loss is then least at a half for both."""
    alike = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    scale = torch.tensor(20.0)
    half = torch.log(torch.tensor(2.0)).item()
    assert losses.soft(alike, alike, scale).item() == pytest.approx(2 * half / 3, abs=1e-4)
    hard = losses.infonce(scale * alike @ alike.T, torch.eye(3, dtype=torch.bool)).item()
    assert hard == pytest.approx(2 * half / 3, abs=1e-4)
    # What tells them apart: a picture that looks like another, with a text that does not.
    texts = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    target = functional.softmax(scale * (alike @ alike.T + texts @ texts.T) / 2, dim=1)
    logits = scale * texts @ alike.T
    expected = -(target * logits.log_softmax(1)).sum() / 6 - (target.T * logits.T.log_softmax(1)).sum() / 6
    assert losses.soft(alike, texts, scale).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_loss_takes_what_its_settings_say() -> None:
    images = functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    own, true = torch.arange(4), torch.eye(4, dtype=torch.bool)
    nearly = torch.zeros(4, 4, dtype=torch.bool)
    nearly[0, 1] = True
    scale, bias = torch.tensor(10.0), torch.tensor(-3.0)

    def loss(**asked: Any) -> float:
        return losses.contrastive(LossSettings(**asked), images, images, own, true, nearly, scale, bias).item()

    assert loss(contrastive="infonce", confusable=5.0) > loss(contrastive="infonce")
    assert loss(contrastive="sigmoid", confusable=5.0) > loss(contrastive="sigmoid")


@pytest.mark.parametrize("count", [1, 3, 7, 8, 16])
def test_shares_cover_all_and_none_is_empty(count: int) -> None:
    shares = steps.shares(count, 4)
    assert len(shares) == 4 and all(len(share) for share in shares)
    assert {place for share in shares for place in share} == set(range(count))
