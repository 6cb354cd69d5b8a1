"""One step of training over all workers, in as many pieces as memory wants, with the gradient of the whole.

A contrastive loss compares all pictures with all texts of a step, so its pieces cannot be computed one by one. The
vectors are computed first, in pieces and without what the way back needs; all workers exchange them, and each computes
the whole loss and its gradient by the vectors; then the pieces are computed again, and that gradient is led back
through them (arXiv 2101.06983). With a single piece the first pass is kept, and nothing is computed twice.
"""

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from pipeline.training.losses import contrastive
from pipeline.training.settings import TrainSettings
from pipeline.training.towers import WARMEST, Towers

LONGEST = 1.0  # norm of the gradient


@dataclass(frozen=True)
class World:
    """The workers that share a step."""

    rank: int = 0
    size: int = 1


@dataclass(frozen=True)
class Piece:
    """What is computed at once, on the device.

    Attributes:
        pixels: float32[b, 3, side, side], normalised
        texts: token ids [t, length], of `kept` texts and others that fill up
        captions: token ids [b, length], where captions are learnt
        before: unit vectors of the pictures and of the texts, float32[b, dim] and [t, dim], as the model that the
            training started from has them, where they are to stay near; zeros for those that are free
    """

    pixels: Tensor
    texts: Tensor
    captions: Tensor | None
    before: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Labels:
    """What is true of a whole step, over all workers; on the device. See batches.Batch."""

    own: Tensor
    true: Tensor
    confusable: Tensor
    held: tuple[int, int] = (0, 0)  # pictures and texts that are to stay where they were


def shares(count: int, pieces: int) -> list[range]:
    """count things in so many consecutive pieces, as equal as can be; at least one in each, the last ones again if
    there are fewer."""
    if count < pieces:
        return [range(min(place, count - 1), min(place, count - 1) + 1) for place in range(pieces)]
    edges = [count * place // pieces for place in range(pieces + 1)]
    return [range(first, last) for first, last in itertools.pairwise(edges)]


def over_workers(towers: Towers, world: World) -> nn.Module:
    """Towers whose gradients are averaged over the workers. Those of the losses' own weights are equal already."""
    if world.size == 1:
        return towers
    own = ["net.logit_scale", ".bias", "bias"]  # torch names a module's own parameters in either way
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(towers, own)
    return DistributedDataParallel(towers)


def learn(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    asked: TrainSettings,
    pieces: Sequence[Piece],
    labels: Labels,
    world: World,
    seed: int,
) -> dict[str, float]:
    """One step. Returns the losses, which are those of all workers.

    `module`: as `over_workers` gives it.
    """
    optimizer.zero_grad(set_to_none=True)
    with attention(labels.own.device.type):
        told = gradient(module, asked, pieces, labels, world, seed)
    towers = module.module if isinstance(module, DistributedDataParallel) else module
    trained = [p for p in towers.parameters() if p.requires_grad]
    told["gradient"] = float(nn.utils.clip_grad_norm_(trained, LONGEST))
    optimizer.step()
    assert isinstance(towers, Towers)
    with torch.no_grad():
        towers.net.logit_scale.clamp_(0, WARMEST)
    return told


def gradient(
    module: nn.Module, asked: TrainSettings, pieces: Sequence[Piece], labels: Labels, world: World, seed: int
) -> dict[str, float]:
    """Leave the gradient of the whole step's loss in the weights. Returns the losses."""
    towers = module.module if isinstance(module, DistributedDataParallel) else module
    assert isinstance(towers, Towers)
    at_once = len(pieces) == 1
    with torch.set_grad_enabled(at_once):
        first = [_compute(module if at_once else towers, piece, seed, i, world) for i, piece in enumerate(pieces)]
    images, texts = (torch.cat([out[which] for out in first]) for which in (0, 1))
    tokens = _summed(sum(_asked(piece) for piece in pieces), world)
    loss, towards_images, towards_texts, towards_own = _contrast(towers, asked, images, texts, labels, pieces, world)
    weight = asked.loss.captions * world.size / max(tokens, 1)  # workers' gradients are averaged, tokens are summed

    told, moved, row, column = 0.0, 0.0, 0, 0
    for i, piece in enumerate(pieces):
        last = i == len(pieces) - 1
        alone = isinstance(module, DistributedDataParallel) and not last
        with module.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
            out = first[0] if at_once else _compute(module, piece, seed, i, world)
            rows, columns = slice(row, row + len(out[0])), slice(column, column + len(out[1]))
            outputs, towards = [out[0], out[1]], [towards_images[rows], towards_texts[columns]]
            if piece.before:
                for side, (vectors, count) in enumerate(zip(piece.before, labels.held, strict=True)):
                    towards[side] = towards[side] - asked.loss.keep * world.size / max(count, 1) * vectors
                    moved += float((vectors * (vectors - out[side].detach())).sum()) / max(count, 1)
            if piece.captions is not None:
                outputs.append(out[2])
                towards.append(out[2].new_tensor(weight))
            wanted = [(o, t) for o, t in zip(outputs, towards, strict=True) if o.requires_grad]
            torch.autograd.backward([o for o, _ in wanted], [t for _, t in wanted])
        told += float(out[2].detach())
        row, column = rows.stop, columns.stop
    for parameter, towards_it in towards_own:
        parameter.grad = towards_it
    said = {"contrastive": float(loss)}
    if asked.loss.captions:
        said["captions"] = _summed(told, world) / max(tokens, 1)
    if asked.loss.keep:
        said["moved"] = _summed(moved, world)
    weights = {"captions": asked.loss.captions, "moved": asked.loss.keep}
    return said | {"loss": said["contrastive"] + sum(weights[name] * said.get(name, 0.0) for name in weights)}


def _contrast(
    towers: Towers,
    asked: TrainSettings,
    images: Tensor,
    texts: Tensor,
    labels: Labels,
    pieces: Sequence[Piece],
    world: World,
) -> tuple[Tensor, Tensor, Tensor, list[tuple[nn.Parameter, Tensor]]]:
    """The loss of all workers' vectors; its gradient by this worker's, times the number of workers, since theirs are
    averaged; and by the losses' own weights, which are the same on all."""
    everywhere, said = _gathered(images.detach(), world), _gathered(texts.detach(), world)
    count = len(labels.true[0])
    split = shares(count, world.size * len(pieces))
    order = torch.tensor([place for share in split for place in share], device=said.device)
    first = torch.stack([(order == place).nonzero()[0, 0] for place in range(count)])  # those that fill up come again
    leaves = [everywhere.requires_grad_(), said.requires_grad_()]
    own = [p for p in (towers.net.logit_scale, towers.bias) if p is not None and p.requires_grad]
    with torch.enable_grad():
        loss = contrastive(
            asked.loss,
            everywhere,
            said[first],
            labels.own,
            labels.true,
            labels.confusable,
            towers.scale(),
            towers.bias,
        )
        by_images, by_texts, *by_own = torch.autograd.grad(loss, [*leaves, *own])
    widths = [sum(map(len, split[rank * len(pieces) : (rank + 1) * len(pieces)])) for rank in range(world.size)]
    before = sum(widths[: world.rank])
    mine = slice(world.rank * len(images), (world.rank + 1) * len(images))
    return (
        loss.detach(),
        by_images[mine] * world.size,
        by_texts[before : before + len(texts)] * world.size,
        list(zip(own, by_own, strict=True)),
    )


def attention(device: str) -> contextlib.AbstractContextManager[None]:
    """The kernel of attention that is quick there: torch's fused one for CPUs takes most of a step on its way back."""
    return sdpa_kernel(SDPBackend.MATH) if device == "cpu" else contextlib.nullcontext()


def _compute(module: nn.Module, piece: Piece, seed: int, number: int, world: World) -> tuple[Tensor, ...]:
    """One pass. Dropout must drop the same in both passes over a piece, and elsewhere in other pieces."""
    torch.manual_seed((seed * world.size + world.rank) * 1024 + number)
    found: tuple[Tensor, ...] = module(piece.pixels, piece.texts, piece.captions)
    return found


def _asked(piece: Piece) -> int:
    return 0 if piece.captions is None else int((piece.captions[:, 1:] != 0).sum())


def _summed(value: float, world: World) -> float:
    if world.size == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64 if not torch.cuda.is_available() else torch.float32)
    total = total.to("cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(total)
    return float(total)


def _gathered(vectors: Tensor, world: World) -> Tensor:
    """The vectors of all workers, one worker's after another's, float32[all, dim]."""
    if world.size == 1:
        return vectors.clone()
    lengths = [torch.zeros(1, dtype=torch.int64, device=vectors.device) for _ in range(world.size)]
    distributed.all_gather(lengths, torch.tensor([len(vectors)], device=vectors.device))
    counts = [int(length) for length in lengths]
    padded = vectors.new_zeros((max(counts), vectors.shape[1]))
    padded[: len(vectors)] = vectors
    found = [torch.empty_like(padded) for _ in range(world.size)]
    distributed.all_gather(found, padded)
    return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])
