"""The least time that a model's arithmetic takes here: its operations ÷ the rate of one large matrix product."""

import time
from typing import Any

import networks
import open_clip
import torch
from peers import DEVICE
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def rate(dtype: torch.dtype, seconds: float = 2.0) -> float:
    """Operations a second, of the quickest product seen: as a matrix product, or a convolution of 1 × 1.

    They do the same, but for torch on CPUs by different libraries.
    """
    n = 8192 if DEVICE == "cuda" else 2048
    a, b = (torch.randn(n, n, device=DEVICE, dtype=dtype) for _ in range(2))
    image, kernel = a[None, None].permute(0, 3, 1, 2), b[:, :, None, None]
    best = 0.0
    for product in (lambda: a @ b.T, lambda: nn.functional.conv2d(image, kernel)):
        product()
        ends = time.perf_counter() + seconds / 2
        while time.perf_counter() < ends:
            wait()
            started = time.perf_counter()
            product()
            wait()
            best = max(best, 2 * n**3 / (time.perf_counter() - started))
    return best


def wait() -> None:
    """Until the device has done all that it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def of_picture(net: Any) -> int:
    """Operations of the image tower for one picture, as counted by torch while stock open_clip's runs."""
    side = net.visual.preprocess_cfg["size"]
    side = side if isinstance(side, int) else max(side)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # which the counter does not know
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net.encode_image(torch.zeros(1, 3, side, side, device=DEVICE, dtype=next(net.parameters()).dtype))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops()


def of_caption(net: open_clip.CoCa, tokens: float, beams: int) -> float:
    """Operations of one caption of so many tokens, apart from the image tower, where nothing is computed twice.

    Two for each weight that a beam's token meets, and the keys and values of the image tokens once. What attention
    itself takes is left out: at 30 tokens it is some 2 % of it.
    """
    matrices = {
        key: parameter.numel()
        for part in ("text.transformer", "text_decoder")
        for key, parameter in net.named_parameters()
        if key.startswith(part) and parameter.dim() == 2
    }
    image = sum(n * 2 / 3 for key, n in matrices.items() if "cross_attn" in key and "in_proj" in key)
    image_tokens = net.visual.attn_pool.query.shape[0] - 1
    return 2 * (image * image_tokens + (sum(matrices.values()) - image) * beams * (tokens - 1))


def stock(name: str, checkpoint: str) -> Any:
    """open_clip's network as it is, with these weights, in fp32."""
    net = networks.bare(name)
    open_clip.load_checkpoint(net, checkpoint)
    return net.eval().requires_grad_(False).to(DEVICE)
