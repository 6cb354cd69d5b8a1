"""One tower of a model, without memory for the other: who serves searches by words needs no eyes.

The network is built on torch's meta device, where weights have shapes and no memory. Those of one tower are then read
from the checkpoint, and only those.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import open_clip
import safetensors
import torch
from torch import Tensor, nn

Tower = Literal["text", "image"]

CAPTIONER = "text_decoder."  # of a CoCa: neither tower
IMAGE = "visual."
MASK = "attn_mask"  # the only tensor that is in no checkpoint, which both of open_clip's text towers compute


class Blank(nn.Module):
    """What stands where a tower was: what others read of it."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        for name in ("preprocess_cfg", "image_size", "positional_embedding"):
            if hasattr(tower, name):
                value = getattr(tower, name)
                self.__dict__[name] = value.to("meta") if isinstance(value, Tensor) else value


def load(create: Callable[[], Any], path: Path, tower: Tower) -> Any | None:
    """The network that `create` makes, with one tower, its weights from `path`, fp32 on CPU.

    None where it cannot be had so: the checkpoint names its weights in another way than open_clip, or the network
    computes tensors of its own when it is made.
    """
    assert tower in get_args(Tower)
    try:
        with torch.device("meta"):
            net = strip(create(), tower)
    except (RuntimeError, NotImplementedError):  # it looks at numbers when it is made, and there are none
        return None
    wanted = dict(net.state_dict())
    given = _read(path, wanted)
    if given is None or any(given[name].shape != wanted[name].shape for name in wanted):
        return None
    net.load_state_dict(given, assign=True)
    for name, buffer in list(net.named_buffers()):
        if buffer.device.type == "meta":
            owner = net.get_submodule(name.rpartition(".")[0])
            if name.rpartition(".")[2] != MASK:
                return None
            owner.register_buffer(MASK, _causal(buffer), persistent=False)
    return net


def strip(net: Any, tower: Tower) -> Any:
    """The network without its other tower, and without what writes captions."""
    if hasattr(net, CAPTIONER[:-1]):
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


def _read(path: Path, wanted: dict[str, Any]) -> dict[str, Tensor] | None:
    """The tensors of these names, and no others, from a checkpoint; None where it has not got them by these names."""
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, framework="pt") as file:
            names = set(file.keys())
            return {name: file.get_tensor(name).float() for name in wanted} if names >= wanted.keys() else None
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        return None
    held = held.get("state_dict", held)
    held = {name.removeprefix("module."): value for name, value in held.items()}
    return {name: held[name].float().clone() for name in wanted} if held.keys() >= wanted.keys() else None
