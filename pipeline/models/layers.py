"""Linear layers and attention as processors like them: the same sums as torch's own modules, sooner.

On CPU two things are slow in torch 2.15 (figures in docs/performance.md). Its fp32 linear layers go to MKL, which
leaves half of an AMD processor's vector width unused; its convolutions go to oneDNN, which uses all of it, so a linear
layer is put as a 1 × 1 convolution. And `nn.MultiheadAttention` hands its projections transposed tensors, which costs
copies of the weights.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows from which the pictures' side of a product is the larger one, and few enough that its weights are.
MANY_ROWS = 128
FEW_ROWS_FP32 = 4
CACHED_SCORES = 4 << 20
PIECE = 64  # outputs in one image of weights: a seventh quicker than all in one
# Over the one row that there is, a stride does nothing; but without one torch, on a single thread, takes a convolution
# of its own, which is no quicker than MKL.
STRIDE = (2, 1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times weight [out, in], plus bias [out] → [..., out]."""
    rows = x.reshape(-1, x.shape[-1])
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16):
        if len(rows) >= MANY_ROWS:
            image = rows[None, None].permute(0, 3, 1, 2)  # [1, in, 1, rows], the channels last in memory
            y = F.conv2d(image, weight[:, :, None, None], bias, STRIDE)
            return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
        if x.dtype == torch.float32 and len(rows) >= FEW_ROWS_FP32:
            # The weights are the images, read as they lie in memory; the rows are the kernels.
            out, width = weight.shape
            images = weight.view(-1, 1, PIECE if out % PIECE == 0 else out, width).permute(0, 3, 1, 2)
            y = F.conv2d(images, rows.view(-1, width, 1, 1), stride=STRIDE)  # the rows last in memory
            y = y.permute(0, 2, 3, 1).reshape(out, -1).t()
            return torch.add(y, 0.0 if bias is None else bias, out=x.new_empty(y.shape)).view(*x.shape[:-1], out)
    return F.linear(rows, weight, bias).view(*x.shape[:-1], -1)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention. q [n, heads, queries, d], k and v [n, heads, keys, d]; mask is added to the scores."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and mask is None:
        # torch's fused kernel computes in bf16 at the rate of fp32; its matrix products do not. A few pictures at a
        # time, so that their scores stay in the processor's cache.
        size = max(1, CACHED_SCORES // (q.shape[1] * q.shape[2] * k.shape[2]))
        return torch.cat([_attention(*some) for some in zip(*(t.split(size) for t in (q, k, v)), strict=True)])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul((q * q.shape[-1] ** -0.5).contiguous(), k.contiguous().mT)
    return torch.matmul(scores.softmax(dim=-1), v.contiguous())


def heads(x: Tensor, n: int) -> Tensor:
    """[batch, tokens, width] → [batch, n, tokens, width / n]"""
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


class Linear(nn.Module):
    """An `nn.Linear` computed by `linear`."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """An `nn.MultiheadAttention` (batch first, with biases, without dropout) computed by `linear` and `attention`.

    Attributes:
        weights, biases: of queries, keys and values, [width, in] and [width] each
    """

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = layer.num_heads
        self.batch_first = True
        self.in_proj_weight, self.in_proj_bias = layer.in_proj_weight, layer.in_proj_bias
        if layer.in_proj_weight is None:
            self.q_proj_weight, self.k_proj_weight = layer.q_proj_weight, layer.k_proj_weight
            self.v_proj_weight = layer.v_proj_weight
        self.out_proj = layer.out_proj

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.in_proj_weight is None:
            return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        q, k, v = self.in_proj_weight.chunk(3)
        return q, k, v

    @property
    def biases(self) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.in_proj_bias.chunk(3)
        return q, k, v

    def project(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [..., width] each."""
        if q is k is v and self.in_proj_weight is not None:
            q, k, v = linear(q, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
            return q, k, v
        q, k, v = (linear(*given) for given in zip((q, k, v), self.weights, self.biases, strict=True))
        return q, k, v

    def out(self, x: Tensor) -> Tensor:
        """[n, heads, queries, d] → [n, queries, width]"""
        return linear(x.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        q, k, v = (heads(x, self.heads) for x in self.project(q, k, v))
        if attn_mask is not None and attn_mask.dim() == 3:  # [n · heads, queries, keys]
            attn_mask = attn_mask.unflatten(0, (-1, self.heads))
        return self.out(attention(q, k, v, attn_mask)), None


def quicken(net: Any) -> None:
    """Puts these layers in the place of torch's own, sharing their weights, throughout a network."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MultiheadAttention) and child.batch_first and child.in_proj_bias is not None:
                setattr(module, name, Attention(child))
            elif type(child) is nn.Linear:
                setattr(module, name, Linear(child))
