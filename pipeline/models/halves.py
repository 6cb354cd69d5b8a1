"""One tower of a model, without memory for the other: who serves searches by words needs no eyes.

The network is built on torch's meta device, where weights have shapes and no memory. Those of one tower are then read
from the checkpoint, and only those.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import open_clip
import safetensors
import torch
from torch import Tensor, nn

from pipeline.models.importing import without_compiler

Tower = Literal["text", "image"]

MASK = "attn_mask"


class Blank(nn.Module):
    """What stands where a tower was: what others read of it."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        for name in ("preprocess_cfg", "image_size", "positional_embedding"):
            if hasattr(tower, name):
                value = getattr(tower, name)
                self.__dict__[name] = value.to("meta") if isinstance(value, Tensor) else value


def load(create: Callable[[str], Any], path: Path, tower: Tower) -> Any | None:
    """The network that `create` makes on a device, with one tower, its weights from `path`, fp32 on CPU.

    None where it cannot be had so: the checkpoint names its weights in another way than open_clip, or the network
    computes tensors of its own when it is made. What a damaged checkpoint raises, its readers say each in their way.
    """
    # On that device torch works out shapes by functions that its compiler is to leave alone, and imports it to say so.
    with torch.device("meta"), without_compiler():
        net = strip(create("meta"), tower)
    wanted = dict(net.state_dict())
    given = _read(path, wanted)
    if given is None or any(given[name].shape != wanted[name].shape for name in wanted):
        return None
    net.load_state_dict(given, assign=True)
    for name, buffer in list(net.named_buffers()):
        if buffer.device.type == "meta":
            owner, _, last = name.rpartition(".")
            if last not in COMPUTED:
                return None
            net.get_submodule(owner).register_buffer(last, COMPUTED[last](buffer), persistent=False)
    return net


def strip(net: Any, tower: Tower) -> Any:
    """The network without its other tower, and without what writes captions."""
    if isinstance(net, open_clip.CoCa):
        net.text_decoder = None
    if tower == "text":
        net.visual = Blank(net.visual)
    elif isinstance(net, open_clip.CLIP):
        net.transformer = net.token_embedding = net.ln_final = net.positional_embedding = net.text_projection = None
        net.register_buffer(MASK, None)
    else:
        net.text = None
    return net


def _causal(mask: Tensor) -> Tensor:
    """open_clip's mask, float32[n, n]: no word sees those behind it."""
    return torch.full(mask.shape, float("-inf")).triu_(1)


def _counted(positions: Tensor) -> Tensor:
    """Transformers' positions, int64[1, n]."""
    return torch.arange(positions.shape[-1]).expand(positions.shape)


# The tensors that are in no checkpoint: which open_clip's text towers compute, and those of transformers.
COMPUTED = {MASK: _causal, "position_ids": _counted}


def _read(path: Path, wanted: dict[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of these names, and no others, from a checkpoint; None where it has not got them by these names."""
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, framework="pt") as file:
            names = set(file.keys())
            return {name: _fp32(file.get_tensor(name)) for name in wanted} if names >= wanted.keys() else None
    held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    held = held.get("state_dict", held)
    held = {name.removeprefix("module."): value for name, value in held.items()}
    return {name: _fp32(held[name].clone()) for name in wanted} if held.keys() >= wanted.keys() else None


def _fp32(weights: Tensor) -> Tensor:
    return weights.float() if weights.is_floating_point() else weights
