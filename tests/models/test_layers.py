import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models import layers

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.1, torch.float16: 0.01}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1,), (3,), (16,), (2, 50), (5, 40)])
def test_a_linear_layer(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    # On both sides of the numbers of rows at which another way is taken.
    x, weight, bias = torch.randn(*shape, 48), torch.randn(80, 48), torch.randn(80)
    for given in (None, bias):
        expected = F.linear(x, weight, given)
        found = layers.linear(x.to(dtype), weight.to(dtype), None if given is None else given.to(dtype))
        assert found.dtype == dtype and found.shape == expected.shape
        torch.testing.assert_close(found.float(), expected, atol=TOLERANCE[dtype] * 7, rtol=TOLERANCE[dtype])


def test_rows_that_do_not_lie_in_a_row() -> None:
    x, weight = torch.randn(48, 200).t(), torch.randn(80, 48)
    torch.testing.assert_close(layers.linear(x, weight), F.linear(x, weight), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layers.linear(x[:9], weight), F.linear(x[:9], weight), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["self", "masked", "a mask a head", "cross", "other width"])
def test_attention(case: str, dtype: torch.dtype) -> None:
    wide = 24 if case == "other width" else 32
    theirs = nn.MultiheadAttention(32, 4, batch_first=True, kdim=wide, vdim=wide).eval()
    nn.init.normal_(theirs.in_proj_bias)
    q = torch.randn(3, 9, 32)
    k = torch.randn(3, 13, wide) if case in ("cross", "other width") else q
    mask = None
    if case == "masked":
        mask = torch.full((9, 9), -torch.inf).triu(1)
    elif case == "a mask a head":
        mask = torch.full((9, 9), -torch.inf).triu(1) + torch.randn(3, 1, 1, 9).expand(-1, 4, 9, -1).reshape(12, 9, 9)
    with torch.inference_mode():
        expected, _ = theirs(q, k, k, need_weights=False, attn_mask=mask)
        ours = layers.Attention(theirs).to(dtype)
        given = q.to(dtype)
        keys = given if k is q else k.to(dtype)
        found, _ = ours(given, keys, keys, attn_mask=None if mask is None else mask.to(dtype))
    torch.testing.assert_close(found.float(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_a_network_keeps_its_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
            self.mlp = nn.Sequential(nn.Linear(8, 8), nn.GELU())

    net = Net()
    before = dict(net.named_parameters())
    layers.quicken(net)
    assert isinstance(net.attn, layers.Attention) and isinstance(net.mlp[0], layers.Linear)
    assert {name: id(p) for name, p in net.named_parameters()} == {name: id(p) for name, p in before.items()}
