"""A training from its first step, or its last checkpoint, to its end: what each worker does."""

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, distributed
from torch.nn import functional
from torchvision.transforms import Compose

from pipeline import storage
from pipeline.evaluation.recall import Shown
from pipeline.models import openclip, weights
from pipeline.photo import UserError
from pipeline.training import batches, judge, state, steps, towers
from pipeline.training.data import open_all
from pipeline.training.examples import Joined, split
from pipeline.training.settings import TrainSettings
from pipeline.training.state import Line, State
from pipeline.training.steps import Labels, Piece, World

Tell = Callable[[Line], None]
LINES = 10_000  # of the history, at most, that tell of steps, but for the last
REACH = 1 / 24  # of a side: how far a disturbed picture is moved at most


@dataclass
class Work:
    """What stays the same from step to step."""

    asked: TrainSettings
    world: World
    device: str
    precision: str
    net: Any
    config: dict[str, Any]
    preprocess: dict[str, Any]
    tokenizer: Any
    vocabulary: list[int] | None
    tables: dict[str, Tensor]  # the full ones, where those of the network are narrowed
    start: dict[str, Tensor] | None  # the weights it started from, where they are mixed in
    before: Any  # the network it started from, where vectors are to stay near its own; or None
    examples: Joined
    training: np.ndarray  # rows, in groups
    validating: list[int]

    def tokenize(self, texts: list[str]) -> Tensor:
        return towers.narrowed(self.tokenizer, self.vocabulary)(texts)

    def decode(self, ids: list[int]) -> str:
        known = self.vocabulary
        return str(self.tokenizer.decode([known[i] for i in ids] if known else ids)).strip()

    def normalized(self, pixels: np.ndarray) -> Tensor:
        """uint8[n, side, side, 3] → float32[n, 3, side, side] on the device, as OpenCLIP's ToTensor and Normalize."""
        mean, std = (torch.tensor(self.preprocess[name], device=self.device) for name in ("mean", "std"))
        moved = torch.from_numpy(pixels).to(self.device)
        return ((moved / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def prepare(asked: TrainSettings, world: World, device: str, tell: Tell = lambda line: None) -> Work:
    """The network and the data. Raises UserError for whatever the settings ask for and is not there.

    `tell` hears of pictures that must be made first, on the first worker.
    """
    _check(asked)
    towers_of_others = asked.model.startswith(weights.TOWERS)
    bare = asked.from_scratch or towers_of_others
    path = None if bare else weights.checkpoint(asked.model, asked.pretrained)[0]
    pretrained = openclip.RANDOM if asked.from_scratch and towers_of_others else asked.pretrained
    net, tokenizer, config = openclip.network(asked.model, pretrained, path, seed=asked.seed)
    if asked.loss.keep and bare:
        raise UserError("loss.keep: weights by chance know nothing to be kept; leave it out with from_scratch")
    if asked.loss.captions and not isinstance(net, open_clip.CoCa):
        raise UserError(f"loss.captions: {asked.model} writes no captions; name a CoCa, or leave it out")
    preprocess = net.visual.preprocess_cfg
    size = preprocess["size"]
    *fit, _, _ = image_transform_v2(PreprocessCfg(**preprocess), is_train=False).transforms
    fitted = Compose(fit)
    examples = open_all(
        asked.data,
        lambda picture: np.asarray(fitted(picture)),
        size if isinstance(size, int) else max(size),
        json.dumps(preprocess, sort_keys=True),
        _counted(tell if world.rank == 0 else lambda line: None),
    )
    rows, validating = split(examples.ids, asked.validation.share, asked.validation.photos)
    training = batches.groups(rows, examples.together)
    if len(validating) < 2 or not len(training):
        raise UserError(
            f"{len(rows)} photos to train on and {len(validating)} to validate with are too few: "
            "name more of them, or another validation.share"
        )
    towers.unlock(net, asked)
    if asked.recompute:
        net.set_grad_checkpointing(True)
    vocabulary, tables = None, {}
    if asked.tokens == "used":
        vocabulary = towers.vocabulary(tokenizer, _said(examples))
        tables = towers.narrow(net, vocabulary, asked.from_scratch, asked.seed)
        _check_unused(tables, vocabulary, asked)
    start = {name: value.clone().to(device) for name, value in net.state_dict().items()} if asked.mix < 1 else None
    precision = openclip.default_precision(device.partition(":")[0]) if asked.precision == "auto" else asked.precision
    return Work(
        asked=asked,
        world=world,
        device=device,
        precision=precision,
        net=net.to(device),
        config=config,
        preprocess=preprocess,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        tables=tables,
        start=start,
        before=copy.deepcopy(net).requires_grad_(False).eval() if asked.loss.keep else None,
        examples=examples,
        training=training,
        validating=validating,
    )


def _counted(tell: Tell) -> Shown:
    def counted(items: Iterable[Any], total: int, _: str) -> Iterator[Any]:
        told = time.monotonic()
        for count, item in enumerate(items, 1):
            yield item
            if time.monotonic() - told >= 1:
                told = time.monotonic()
                tell({"pictures": count, "of": total})

    return counted


def _check(asked: TrainSettings) -> None:
    """Raises UserError for settings that do not go together."""
    pieces = asked.workers * asked.accumulate
    if asked.batch % pieces:
        raise UserError(
            f"batch: {asked.batch} pictures are not shared by workers and pieces without a rest: "
            f"name a multiple of workers × accumulate, {pieces}"
        )
    if asked.texts is not None and asked.texts < asked.batch:
        raise UserError(
            f"texts: {asked.texts} are fewer than the {asked.batch} of batch, and each picture brings one: "
            "name as many or more, or leave it out"
        )
    if any(data.known for data in asked.data) and not asked.loss.keep:
        raise UserError("data: known is for loss.keep: name it, or leave known out")
    if asked.from_scratch and asked.pretrained is not None:
        raise UserError(f"from_scratch begins with random weights: leave it out, or pretrained: {asked.pretrained}")


def _said(examples: Joined) -> Iterator[str]:
    """All texts that may come, put into their templates: what stands beside a text may make another token of it."""
    for row in range(len(examples.ids)):
        templates = examples.templates(row) or ("{}",)
        yield from (template.replace("{}", claim) for claim in examples.claims(row) for template in templates)
        yield examples.caption(row) or ""


def _check_unused(tables: dict[str, Tensor], vocabulary: list[int], asked: TrainSettings) -> None:
    """Raises UserError where the tokens that are left out have logits that must be known."""
    table = tables.get("text_decoder.text_projection")
    if asked.loss.captions and table is not None:
        unused = torch.ones(table.shape[1], dtype=torch.bool)
        unused[vocabulary] = False
        if table[:, unused].any():
            raise UserError("tokens: used goes without loss.captions, unless it is from_scratch or was trained so")


def run(work: Work, tell: Tell) -> None:
    """Train to the end, from the last checkpoint if there is one. On the first worker `tell` hears of each step."""
    asked, world = work.asked, work.world
    table = work.tables.get("text_decoder.text_projection")
    unused = 0 if table is None else table.shape[1] - len(work.vocabulary or ())
    module = towers.Towers(work.net, asked, unused, work.precision).to(work.device)
    now = State(module, towers.optimizer(module, asked), None, work.vocabulary)
    if asked.average:
        now.average = {name: value.detach().clone() for name, value in work.net.state_dict().items()}
    state.restore(now, asked, work.device)
    spread = steps.over_workers(module, world)
    if now.step == 0 and not now.history:
        _judge(work, now, tell)
    todo = range(now.step, asked.steps)
    for step, (pieces, labels) in zip(todo, storage.ahead(lambda step: prepared(work, step), todo), strict=True):
        _set_rate(now.optimizer, rate(step, asked))
        towers.set_training(module)
        line = steps.learn(spread, now.optimizer, asked, pieces, labels, world, _seed(asked, step))
        if not (math.isfinite(line["loss"]) and math.isfinite(line["gradient"])):  # the weights are lost with either
            raise UserError(
                f"the loss or its gradient is no number at step {step + 1}: lower learning_rate, or precision: fp32"
            )
        now.step = step + 1
        _forget_slowly(work, now)
        line = {"step": now.step, "rate": rate(step, asked), **line}
        if now.step % max(1, math.ceil(asked.steps / LINES)) == 0 or now.step == asked.steps:
            now.history.append(line)
        if world.rank == 0:
            tell(line)
        if now.step % asked.validation.every == 0 or now.step == asked.steps:
            _judge(work, now, tell)
        if world.rank == 0 and (now.step % asked.save_every == 0 or now.step == asked.steps):
            state.save(now, asked)


def rate(step: int, asked: TrainSettings) -> float:
    """The learning rate of a step: a warm-up along a line, then half a cosine down to nothing."""
    warm = asked.warm_up * asked.steps
    if step + 1 < warm:
        return asked.learning_rate * (step + 1) / warm
    along = (step + 1 - warm) / max(1.0, asked.steps - warm)
    return asked.learning_rate * (0.5 + 0.5 * math.cos(math.pi * min(1.0, along)))


def _set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def _seed(asked: TrainSettings, step: int) -> int:
    return asked.seed * 1_000_003 + step


def prepared(work: Work, step: int) -> tuple[list[Piece], Labels]:
    """This worker's pieces of a step, and what is true of the whole step."""
    asked, world = work.asked, work.world
    batch = batches.plan(
        work.examples,
        work.training,
        step,
        size=asked.batch,
        texts=asked.texts or asked.batch,
        seed=asked.seed,
        absent=asked.loss.contrastive == "sigmoid",  # which has no use for a right answer to each text
    )
    count = world.size * asked.accumulate
    mine = slice(world.rank * asked.accumulate, (world.rank + 1) * asked.accumulate)
    pieces = []
    rows, texts = steps.shares(len(batch.rows), count)[mine], steps.shares(len(batch.texts), count)[mine]
    for places, said in zip(rows, texts, strict=True):
        pixels = work.normalized(work.examples.pixels([batch.rows[place] for place in places]))
        if asked.disturb:
            pixels = disturbed(pixels, [(asked.seed, step, place) for place in places])
        captions = None
        if asked.loss.captions:
            captions = work.tokenize([batch.captions[place] for place in places]).to(work.device)
        tokens = work.tokenize([batch.texts[i] for i in said]).to(work.device)
        knew = batch.knew[0][list(places)], batch.knew[1][list(said)]
        pieces.append(Piece(pixels, tokens, captions, _before(work, pixels, tokens, knew)))
    own, true, confusable = (torch.from_numpy(a).to(work.device) for a in (batch.own, batch.true, batch.confusable))
    return pieces, Labels(own, true, confusable, held=(int(batch.knew[0].sum()), int(batch.knew[1].sum())))


def _before(
    work: Work, pixels: Tensor, tokens: Tensor, knew: tuple[np.ndarray, np.ndarray]
) -> tuple[Tensor, Tensor] | None:
    if work.before is None:
        return None
    with torch.no_grad():
        found = work.before.encode_image(pixels), work.before.encode_text(tokens)
        images, texts = (
            functional.normalize(vectors.float(), dim=-1) * torch.from_numpy(held).to(vectors.device)[:, None]
            for vectors, held in zip(found, knew, strict=True)
        )
    return images, texts


def disturbed(pixels: Tensor, seeds: Sequence[tuple[int, ...]]) -> Tensor:
    """Pictures moved a little, brighter or darker, and grainy; each by its own seed, wherever it is computed.

    Args:
        pixels: normalised, float32[n, 3, side, side]
    """
    side = pixels.shape[-1]
    reach = max(1, round(REACH * side))
    padded = functional.pad(pixels, (reach,) * 4, mode="replicate")
    found = torch.empty_like(pixels)
    for i, seed in enumerate(seeds):
        dice = np.random.default_rng(seed)
        dy, dx = dice.integers(0, 2 * reach + 1, 2).tolist()
        grain = torch.from_numpy(dice.standard_normal((3, side, side), np.float32)).to(pixels.device)
        moved = padded[i, :, dy : dy + side, dx : dx + side]
        found[i] = moved * dice.uniform(0.9, 1.1) + dice.uniform(-0.15, 0.15) + 0.05 * grain
    return found


def _forget_slowly(work: Work, now: State) -> None:
    """Move the running mean of the weights; quickly at first, when they still change much."""
    if now.average is None:
        return
    keep = min(work.asked.average, (1 + now.step) / (20 + now.step))
    held = work.net.state_dict()
    with torch.no_grad():
        for name, value in now.average.items():
            value.lerp_(held[name], 1.0 - keep) if value.is_floating_point() else value.copy_(held[name])


def result(work: Work, now: State) -> dict[str, Tensor]:
    """The weights that are judged and saved: the running mean if there is one, mixed with those it started from."""
    found = {name: value.detach() for name, value in (now.average or work.net.state_dict()).items()}
    if work.start is None:
        return found
    return {
        name: torch.lerp(work.start[name], value, work.asked.mix) if value.is_floating_point() else value
        for name, value in found.items()
    }


def _judge(work: Work, now: State, tell: Tell) -> None:
    """Measure on the first worker, and keep the model there if none was better."""
    if work.world.rank == 0:
        asked, examples, rows = work.asked, work.examples, work.validating
        kept = result(work, now)
        with towers.wearing(work.net, kept):
            found = judge.judge(
                work.net,
                examples,
                rows,
                lambda some: work.normalized(examples.pixels(some)),
                work.tokenize,
                captions=asked.validation.captions if asked.loss.captions else 0,
                decode=work.decode,
            )
        line = {"step": now.step, **found}
        now.history.append(line)
        if now.best() is line:
            wide = towers.widened(kept, work.tables, work.vocabulary) if work.vocabulary else kept
            state.write_model(work.asked, work.net, work.tokenizer, work.config, work.preprocess, wide)
        state.tell(now, asked)
        tell(line)
    if work.world.size > 1:
        distributed.barrier()
