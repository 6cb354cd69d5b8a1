"""A network as it is trained: which weights, over which tokens, and what one pass gives."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.photo import UserError
from pipeline.training.losses import captioning
from pipeline.training.settings import TrainSettings, Unlocked

WARMEST = float(np.log(100.0))  # of the logit scale, as CLIP was trained
START_BIAS = -6.0  # of the sigmoid loss: nearly all pairs are false
# Tables of tokens in the state dicts of OpenCLIP's networks, and the axis of tokens.
TABLES = {"token_embedding.weight": 0, "text.token_embedding.weight": 0, "text_decoder.text_projection": 1}
# What stands behind a tower's blocks, by the names of open_clip's, timm's and our own towers.
HEADS = ("ln_post", "proj", "attn_pool", "attnpool", "head", "ln_final", "text_projection", "fc_norm", "norm")


class Towers(nn.Module):
    """A network and its losses' own weights: one pass over pictures, texts and captions.

    `bias` is that of the sigmoid loss; a search ranks, so the saved model does without it.
    """

    def __init__(self, net: Any, asked: TrainSettings, unused: int, precision: str) -> None:
        super().__init__()
        self.net = net
        self.captions = asked.loss.captions > 0
        self.unused = unused
        self.bf16 = precision == "bf16"
        self.bias = nn.Parameter(torch.tensor(START_BIAS)) if asked.loss.contrastive == "sigmoid" else None

    def forward(self, pixels: Tensor, texts: Tensor, captions: Tensor | None) -> tuple[Tensor, ...]:
        """Unit vectors of pictures and texts, float32[b, dim] and [t, dim], and the sum of the captions' losses.

        Args:
            pixels: normalised, float32[b, 3, side, side]
            texts: token ids [t, length]
            captions: token ids [b, length], of a CoCa that learns them
        """
        net, device = self.net, pixels.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            # The image tower of a CoCa gives its tokens too.
            seen: tuple[Tensor, ...] = (
                net.visual(pixels) if isinstance(net, open_clip.CoCa) else (net.encode_image(pixels),)
            )
        # On CPUs narrow text towers are slower in bf16.
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16 and device != "cpu"):
            read = net.encode_text(texts)
            told = pixels.new_zeros(()) if captions is None else self._captions(seen[1].to(read.dtype), captions)
        images, words = (functional.normalize(vectors.float(), dim=-1) for vectors in (seen[0], read))
        return images, words, told

    def _captions(self, image_tokens: Tensor, captions: Tensor) -> Tensor:
        length = max(2, int((captions != 0).sum(dim=1).max()))
        told, asked = captions[:, : length - 1], captions[:, 1:length]
        _, embedded = self.net.text(told)
        return captioning(self.net.text_decoder(image_tokens, embedded), asked, self.unused)

    def scale(self) -> Tensor:
        return self.net.logit_scale.exp()


def unlock(net: Any, asked: TrainSettings) -> None:
    """Leave the gradient to what is to be trained, and take it from the rest. Raises UserError."""
    net.requires_grad_(False)
    net.logit_scale.requires_grad_(True)
    _unlock(net.visual, asked.unlocked.image)
    if hasattr(net, "text"):
        _unlock(net.text, asked.unlocked.text)
    else:  # open_clip's CLIP holds the parts of its text tower itself, beside the other one
        visual = net.visual
        net.visual = None
        _unlock(net, asked.unlocked.text)
        net.visual = visual
    if isinstance(net, open_clip.CoCa) and asked.loss.captions:
        net.text_decoder.requires_grad_(True)
    if not any(p.requires_grad for p in net.parameters() if p is not net.logit_scale):
        raise UserError("unlocked: nothing is left to train; set image or text to head, a number of blocks, or all")


def _unlock(tower: nn.Module, which: Unlocked) -> None:
    if which == "none":
        return
    last: set[int] = set()
    if isinstance(which, int):
        blocks = _blocks(tower)
        if which > len(blocks):
            raise UserError(f"unlocked: {which} blocks of a tower that has {len(blocks)}")
        last = {id(p) for block in blocks[-which:] for p in block.parameters()}
    for name, parameter in tower.named_parameters():
        in_head = name.removeprefix("trunk.").split(".")[0] in HEADS
        if which == "all" or in_head or id(parameter) in last:
            parameter.requires_grad_(True)


def _blocks(tower: nn.Module) -> list[nn.Module]:
    """A tower's blocks: the longest run of modules of a kind; of a ResNet its four stages."""
    trunk: Any = getattr(tower, "trunk", tower)
    if hasattr(trunk, "layer4"):
        return [trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]
    runs = [list(module) for module in tower.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    return max((run for run in runs if len({type(block) for block in run}) == 1), key=len, default=[])


def set_training(towers: nn.Module) -> None:
    """Training mode, but for modules whose weights stay: their running means must stay too (BatchNorm)."""
    towers.train()
    for module in towers.modules():
        if not any(p.requires_grad for p in module.parameters()) and any(True for _ in module.buffers()):
            module.eval()


def optimizer(towers: Towers, asked: TrainSettings) -> torch.optim.Optimizer:
    """AdamW. Rows of tables of tokens that no text has, which have no gradient, must not decay."""
    kept = {id(module.weight) for module in towers.modules() if isinstance(module, nn.Embedding)}
    heavy: list[nn.Parameter] = []
    light: list[nn.Parameter] = []
    for name, parameter in towers.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in kept and not name.endswith("embedding")
            (heavy if decays else light).append(parameter)
    return torch.optim.AdamW(
        [{"params": heavy, "weight_decay": asked.weight_decay}, {"params": light, "weight_decay": 0.0}],
        lr=asked.learning_rate,
        betas=(0.9, 0.98),
    )


def narrow(net: Any, vocabulary: list[int], blank: bool, seed: int) -> dict[str, Tensor]:
    """Leave in the tables of tokens only the rows of a vocabulary: token i is then its i-th.

    Args:
        vocabulary: token ids in rising order
        blank: whether the rows that are left out are to be zero in the end
        seed: of rows for tokens that were left out when the model was trained

    Returns the full tables by their names in the state dict. Raises UserError where the text tower has none.
    """
    full = {name: table.clone() for name, table in net.state_dict().items() if name in TABLES}
    if not full:
        raise UserError("tokens: used goes with OpenCLIP's own text towers; leave it out for this model")
    rows = torch.tensor(vocabulary)
    for name, table in full.items():
        owner_name, _, last = name.rpartition(".")
        owner = net.get_submodule(owner_name)
        trained = getattr(owner, last).requires_grad
        held = _begun(table.index_select(TABLES[name], rows), TABLES[name], seed)
        setattr(owner, last, nn.Parameter(held, requires_grad=trained))
        if isinstance(owner, nn.Embedding):
            owner.num_embeddings = len(vocabulary)
    return {name: torch.zeros_like(table) for name, table in full.items()} if blank else full


def _begun(table: Tensor, axis: int, seed: int) -> Tensor:
    """A table whose rows of zeros, of words that the model never saw, are as large as the others, by chance."""
    known = table.abs().sum(dim=1 - axis) > 0
    if known.all() or not known.any():
        return table
    spread = table.index_select(axis, known.nonzero().flatten()).std()
    chance = torch.empty_like(table).normal_(std=float(spread), generator=torch.Generator().manual_seed(seed))
    return torch.where(known.unsqueeze(1 - axis), table, chance)


def widened(weights: dict[str, Tensor], tables: dict[str, Tensor], vocabulary: list[int]) -> dict[str, Tensor]:
    """Weights with full tables, in which the rows of the vocabulary are these."""
    places = torch.tensor(vocabulary)
    return weights | {
        name: table.index_copy(TABLES[name], places, weights[name].to(table)) for name, table in tables.items()
    }


def vocabulary(tokenizer: Any, texts: Iterable[str]) -> list[int]:
    """The token ids that these texts may hold, in rising order: 0, the padding, and the marks of start and end."""
    # Texts beyond ASCII as a whole: where their letters were garbled, a tokenizer mends them by those around.
    words = sorted({word for text in texts for word in (text.split() if text.isascii() else (text,))})
    blocks = (words[first : first + 1000] for first in range(0, len(words), 1000))
    ids = {int(number) for block in blocks for number in np.unique(np.asarray(tokenizer(block))).tolist()}
    return sorted({0, *ids, *np.unique(np.asarray(tokenizer([""]))).tolist()})


def narrowed(tokenizer: Any, vocabulary: list[int] | None) -> Callable[[list[str]], Tensor]:
    """A tokenizer whose ids count the vocabulary's tokens; the tokenizer itself for None."""
    if vocabulary is None:
        return lambda texts: torch.as_tensor(tokenizer(texts))
    place = torch.full((max(vocabulary) + 1,), -1)
    place[torch.tensor(vocabulary)] = torch.arange(len(vocabulary))
    return lambda texts: place[torch.as_tensor(tokenizer(texts))]


@contextlib.contextmanager
def wearing(net: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """The network with other weights for a while."""
    before = {name: value.detach().clone() for name, value in net.state_dict().items() if name in weights}
    net.load_state_dict(weights, strict=False)
    try:
        yield
    finally:
        net.load_state_dict(before, strict=False)
