"""Trains the demo's CoCa on drawn scenes: captions by the next token, and vectors by all true pairs of a batch.

The contrastive loss is the sigmoid loss of SigLIP (Zhai et al., arXiv 2303.15343), but with the true label of every
picture and phrase of the batch, for a short phrase such as "a red sailboat" is true of many pictures.
"""

import copy
import functools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from open_clip.coca_model import CoCa
from torch import Tensor, nn
from torch.nn import functional

from pipeline.demo.scenes import Scene, caption, shows_colour
from pipeline.training import model as models
from pipeline.training import pictures, texts
from pipeline.training.evaluate import Tokenize, evaluate

_BATCH = 128
_RATE = 1.5e-3
_WARM_UP = 0.03  # of the whole time
_DECAY = 0.999  # of the averaged weights, a step
_NEARLY_TRUE = 4.0  # what a picture and a phrase of its words wrongly joined weigh in the contrastive loss


@dataclass(frozen=True)
class Batch:
    pixels: Tensor  # float32 [pictures, 3, side, side]
    captions: Tensor  # token ids [pictures, context length]
    phrases: Tensor  # token ids [phrases, context length]
    true: Tensor  # float32 [pictures, phrases]
    weights: Tensor  # float32 [pictures, phrases]


@dataclass
class Run:
    """A training under way: all that a checkpoint holds."""

    model: CoCa
    averaged: CoCa
    bias: nn.Parameter  # of the sigmoid loss; a search ranks, so the saved model does without it
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0

    def state(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "bias": self.bias.data,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }

    def restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.bias.data.copy_(state["bias"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


def train(
    folder: Path,
    work: Path,
    minutes: float,
    seed: int,
    resume: bool,
    log: Callable[[str], None],
    pool: int = 60_000,
    unseen: int = 700,
) -> None:
    """Train for so many minutes; every three, write a checkpoint, and the weights beside the model folder's config.

    Args:
        folder: holds `open_clip_config.json`; the averaged weights are written here.
        work: for the drawn pictures and the checkpoint.
        minutes: of training, those before a resumption included. The learning rate falls to zero with them.
        seed: of weights, batches and wordings.
        resume: go on from the checkpoint in `work`.
        log: takes a line now and then.
        pool: how many pictures to draw for training.
        unseen: how many for evaluation.
    """
    torch.manual_seed(seed)
    config = models.read_config(folder)
    tokenizer = models.tokenizer(config["model_cfg"])
    vocabulary = texts.vocabulary(lambda words: tokenizer(words).numpy())
    run = start(config["model_cfg"], vocabulary)
    checkpoint = work / "checkpoint.pt"
    if resume:
        run.restore(torch.load(checkpoint, weights_only=True))
        log(f"resumed at step {run.step}, {run.seconds / 60:.1f} minutes")
    tokenize = narrowed(tokenizer, vocabulary)
    normalize = normalizer(config["preprocess_cfg"])
    side = config["model_cfg"]["vision_cfg"]["image_size"]
    scenes, pixels = pictures.training_pool(work / f"pictures-{side}-{pool}.npy", pool, side, workers=2)
    archive = pictures.unseen_scenes(unseen)
    archive_pixels = normalize(torch.from_numpy(pictures.render(archive, side)))

    def judge(captions: int) -> str:
        def decode(ids: list[int]) -> str:
            return tokenizer.decode([vocabulary[i] for i in ids]).strip()

        return str(evaluate(run.averaged, archive, archive_pixels, tokenize, decode, captions))

    vocab_size = config["model_cfg"]["text_cfg"]["vocab_size"]

    def keep() -> None:
        part = checkpoint.with_suffix(".part")
        torch.save(run.state(), part)
        part.rename(checkpoint)
        models.save(run.averaged.state_dict(), vocabulary, vocab_size, folder)

    unused = vocab_size - len(vocabulary)
    last_log = last_save = last_judged = time.monotonic()
    losses: list[tuple[float, float]] = []
    for batch in batches(scenes, pixels, tokenize, normalize, random.Random(f"{seed} {run.step}")):
        began = time.monotonic()
        losses.append(learn(run, batch, unused, rate(run.seconds / (60 * minutes))))
        run.seconds += time.monotonic() - began
        now = time.monotonic()
        finished = run.seconds >= 60 * minutes
        if now - last_log > 30 or finished:
            captioning, contrast = np.mean(losses, axis=0)
            log(f"step {run.step}, {run.seconds / 60:.1f} min: captions {captioning:.3f}, contrast {contrast:.3f}")
            last_log, losses = now, []
        if now - last_judged > 480 or finished:
            log(judge(captions=unseen if finished else 200))
            last_judged = time.monotonic()
        if now - last_save > 180 or finished:
            keep()
            last_save = now
        if finished:
            return


def start(config: dict, vocabulary: list[int]) -> Run:
    """A run at its first step."""
    model = models.build(config, vocabulary)
    bias = nn.Parameter(torch.tensor(-6.0))
    heavy = [p for p in model.parameters() if p.ndim >= 2]
    light = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": heavy, "weight_decay": 0.03}, {"params": [*light, bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=_RATE, betas=(0.9, 0.98))
    return Run(model, copy.deepcopy(model).eval().requires_grad_(False), bias, optimizer)


def narrowed(tokenizer: Callable[[list[str]], Tensor], vocabulary: list[int]) -> Tokenize:
    """A tokenizer whose ids count the vocabulary's tokens, instead of OpenCLIP's. It remembers them."""
    place = {token: i for i, token in enumerate(vocabulary)}

    @functools.cache
    def one(text: str) -> list[int]:
        return [place[token] for token in tokenizer([text])[0].tolist()]

    return lambda words: torch.tensor([one(text) for text in words])


def batches(
    scenes: Sequence[Scene],
    pixels: np.ndarray,
    tokenize: Tokenize,
    normalize: Callable[[Tensor], Tensor],
    dice: random.Random,
) -> Iterator[Batch]:
    """Batches without end, each with the whole bank of phrases and 50 more; half of the pictures are mirrored.

    Twins come together. Half of them are of two things in colours, which alone teach whose colour is whose.
    """
    noise = torch.Generator().manual_seed(dice.getrandbits(32))
    twins = range(len(scenes) // 2)
    telling = [i for i in twins if len(scenes[2 * i].things) == 2 and shows_colour(scenes[2 * i].medium)]
    while True:
        chosen = dice.choices(telling, k=_BATCH // 4) + dice.choices(twins, k=_BATCH // 4)
        rows = [row for twin in chosen for row in (2 * twin, 2 * twin + 1)]
        shown, drawn = [scenes[row] for row in rows], pixels[rows]
        for i in range(len(rows)):
            if dice.random() < 0.5:
                shown[i] = pictures.flipped(shown[i])
                drawn[i] = drawn[i, :, ::-1]
        phrases = texts.bank(dice) + [texts.describe(scene, dice) for scene in dice.sample(shown, 50)]
        true, nearly = (torch.from_numpy(table).float() for table in texts.truth(phrases, shown))
        yield Batch(
            _disturbed(normalize(torch.from_numpy(drawn)), noise),
            tokenize([caption(scene) for scene in shown]),
            tokenize([phrase.text for phrase in phrases]),
            true,
            1.0 + (_NEARLY_TRUE - 1.0) * nearly,
        )


def learn(run: Run, batch: Batch, unused: int, rate: float) -> tuple[float, float]:
    """One step; returns the losses of captions and of contrast."""
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.model.train()
    captioning, contrast = losses(run.model, run.bias, batch, unused)
    run.optimizer.zero_grad()
    (captioning + contrast).backward()
    nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.step += 1
    share = min(_DECAY, (1 + run.step) / (20 + run.step))
    with torch.no_grad():
        averaged = list(run.averaged.parameters())
        torch._foreach_lerp_(averaged, list(run.model.parameters()), 1.0 - share)
    return captioning.item(), contrast.item()


def losses(model: CoCa, bias: Tensor, batch: Batch, unused: int) -> tuple[Tensor, Tensor]:
    """The mean loss of a caption's token and the sigmoid loss of a picture with all phrases.

    Args:
        unused: how many tokens the full vocabulary has beyond the model's; each has a logit of zero.
    """
    # In bfloat16 the image tower is a third faster on a CPU that has it; the text towers, narrower still, are slower.
    with torch.autocast("cpu", torch.bfloat16):
        image_latents, image_tokens = (output.float() for output in model.visual(batch.pixels))
    length = int((batch.captions != model.pad_id).sum(dim=1).max())
    told, asked = batch.captions[:, : length - 1], batch.captions[:, 1:length]
    _, token_embs = model.text(told)
    logits = model.text_decoder(image_tokens, token_embs)
    others = logits.new_full((*logits.shape[:2], 1), math.log(unused))
    captioning = functional.cross_entropy(
        torch.cat([logits, others], dim=-1).flatten(0, 1), asked.flatten(), ignore_index=model.pad_id
    )
    phrase_latents, _ = model.text(batch.phrases)
    cosines = functional.normalize(image_latents, dim=-1) @ functional.normalize(phrase_latents, dim=-1).T
    scored = model.logit_scale.exp() * cosines + bias
    contrast = functional.binary_cross_entropy_with_logits(scored, batch.true, batch.weights, reduction="sum")
    return captioning, contrast / len(batch.pixels)


def rate(progress: float) -> float:
    """The learning rate: a warm-up, then half a cosine down to nothing."""
    if progress < _WARM_UP:
        return _RATE * max(progress / _WARM_UP, 0.02)
    along = min(1.0, (progress - _WARM_UP) / (1.0 - _WARM_UP))
    return _RATE * (0.5 + 0.5 * math.cos(math.pi * along))


def normalizer(preprocess: dict) -> Callable[[Tensor], Tensor]:
    """uint8 [n, side, side, 3] → float32 [n, 3, side, side], as OpenCLIP's ToTensor and Normalize do it."""
    mean, std = torch.tensor(preprocess["mean"]), torch.tensor(preprocess["std"])

    def normalize(pixels: Tensor) -> Tensor:
        return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()

    return normalize


def _disturbed(pixels: Tensor, noise: torch.Generator) -> Tensor:
    """Pictures moved by up to three pixels, a little brighter or darker, and grainy."""
    reach = 3
    padded = functional.pad(pixels, (reach,) * 4, mode="replicate")
    side = pixels.shape[-1]
    moved = torch.empty_like(pixels)
    moves = torch.randint(0, 2 * reach + 1, (len(pixels), 2), generator=noise).tolist()
    for i, (dy, dx) in enumerate(moves):
        moved[i] = padded[i, :, dy : dy + side, dx : dx + side]
    contrast = torch.empty(len(pixels), 1, 1, 1).uniform_(0.9, 1.1, generator=noise)
    light = torch.empty(len(pixels), 1, 1, 1).uniform_(-0.15, 0.15, generator=noise)
    grain = torch.empty_like(pixels).normal_(0.0, 0.05, generator=noise)
    return moved * contrast + light + grain
