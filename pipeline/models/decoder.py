"""One token further: CoCa's text tower and decoder over open_clip's own modules, with what they have computed kept.

Captions are written in slots, one a picture, each with a few beams. Keys and values of a token are computed once and
stay where they were written; which of them a beam may look at is a mask of its ancestors, so that choosing other
parents moves no keys. Those of the image tokens are computed once a picture and shared by its beams.
"""

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from pipeline.models.layers import Attention, heads, linear
from pipeline.photo import UserError


class Cache:
    """Keys and values of `slots` pictures being captioned by `beams` beams each, up to `length` tokens long.

    Place j · beams + b of a slot belongs to beam b's token j, so that short captions lie together at the start.

    Attributes:
        tokens: of each layer of text tower and decoder, [2 (keys, values), slots · heads, length · beams, head width]
        image: of each decoder layer, [2, slots · heads, image tokens, head width]
        seen: bool[2 (text tower, decoder), slots, beams, length · beams], the places that a beam may look at
    """

    def __init__(self, net: Any, slots: int, beams: int, length: int, image_tokens: int) -> None:
        decoder = net.text_decoder
        like = decoder.text_projection

        def empty(block: Any, places: int) -> Tensor:
            n = block.attn.heads
            return like.new_zeros(2, slots * n, places, net.text.width // n)

        self.slots, self.beams = slots, beams
        self.tokens = [empty(block, length * beams) for block in (*_text_blocks(net), *decoder.resblocks)]
        self.image = [empty(block, image_tokens) for block in decoder.cross_attn]
        self.seen = torch.zeros(2, slots, beams, length * beams, dtype=torch.bool, device=like.device)

    def put(self, other: "Cache", slots: Tensor) -> None:
        """Take over these slots, int64[n], of another, as the first n here."""
        for mine, theirs in zip((*self.tokens, *self.image), (*other.tokens, *other.image), strict=True):
            mine.unflatten(1, (self.slots, -1))[:, : len(slots)] = theirs.unflatten(1, (other.slots, -1))[:, slots]
        self.seen[:, : len(slots)] = other.seen[:, slots]

    def follow(self, parents: Tensor) -> None:
        """Let each beam see what the beam int64[slots, beams] that it goes on from has seen."""
        index = parents[None, ..., None].expand_as(self.seen)
        self.seen.copy_(self.seen.gather(2, index))


class Decoder:
    """The logits of the next token, for a CoCa whose layers `layers.quicken` has replaced.

    Raises UserError where the text tower is not open_clip's own.
    """

    def __init__(self, net: Any, name: str = "the model") -> None:
        blocks = [*_text_blocks(net), *net.text_decoder.resblocks, *net.text_decoder.cross_attn]
        if not all(isinstance(block, ResidualAttentionBlock) for block in blocks):
            raise UserError(f"{name} cannot write captions: its text tower is not OpenCLIP's own")
        self.net = net
        self.blocks = [*_text_blocks(net), *net.text_decoder.resblocks]
        self.nothing = net.text_decoder.text_projection.new_zeros(1, 1, 1)
        # As a linear layer's weight lies in memory.
        self.projection = net.text_decoder.text_projection.t().contiguous()

    def cache(self, slots: int, beams: int, length: int, image_tokens: int) -> Cache:
        return Cache(self.net, slots, beams, length, image_tokens)

    def begin(self, cache: Cache, slots: Tensor, image_tokens: Tensor) -> None:
        """Take pictures in: image_tokens [n, tokens, width] into slots int64[n], which forget what they held."""
        for kept, block in zip(cache.image, self.net.text_decoder.cross_attn, strict=True):
            given = block.ln_1_kv(image_tokens)
            _, *weights = block.attn.weights
            _, *biases = block.attn.biases
            for part, weight, bias in zip(kept, weights, biases, strict=True):
                part.unflatten(0, (cache.slots, -1))[slots] = heads(linear(given, weight, bias), block.attn.heads)
        cache.seen[:, slots] = False

    def logits(self, cache: Cache, ids: Tensor, lengths: Tensor, longest: int) -> Tensor:
        """float32[slots, beams, vocabulary]: raw scores of the token after the last one of each beam.

        ids: int64[slots, beams, …], of which the first `lengths` int64[slots] count, at most `longest`. All but the
        last have been seen by this cache before.
        """
        net, beams = self.net, cache.beams
        places = beams * longest
        last = (lengths - 1)[:, None, None].expand(-1, beams, 1)
        token = ids.gather(2, last)[..., 0]
        own = last[..., 0] * beams + torch.arange(beams, device=ids.device)  # [slots, beams], where their keys go
        cache.seen[0].scatter_(2, own[..., None], self._counts(ids, token, last)[..., None])
        cache.seen[1].scatter_(2, own[..., None], True)
        lean = torch.where(cache.seen[..., :places], 0.0, -torch.inf).to(self.projection.dtype)
        shapes = {block.attn.heads: kept.shape for kept, block in zip(cache.tokens, self.blocks, strict=False)}
        index = {n: _spread(own, n)[None, ..., None].expand(2, -1, -1, shape[-1]) for n, shape in shapes.items()}
        masks = {n: [_spread(part, n) for part in lean] for n in shapes}

        def attend(attn: Attention, x: Tensor, kept: Tensor, tower: int) -> Tensor:
            parts = linear(x, attn.in_proj_weight, attn.in_proj_bias).unflatten(-1, (3, attn.heads, -1))
            q, new = parts.permute(2, 0, 3, 1, 4).flatten(1, 2).split((1, 2))
            kept.scatter_(2, index[attn.heads], new)
            return _attention(attn, q[0], kept[:, :, :places], masks[attn.heads][tower])

        def cross(attn: Attention, x: Tensor, kept: Tensor) -> Tensor:
            q = heads(linear(x, attn.weights[0], attn.biases[0]), attn.heads).flatten(0, 1)
            return _attention(attn, q, kept, self.nothing)

        x = net.text.token_embedding(token) + net.text.positional_embedding[last[..., 0]]
        text_blocks, decoder = _text_blocks(net), net.text_decoder
        for kept, block in zip(cache.tokens, text_blocks, strict=False):
            x = x + block.ls_1(attend(block.attn, block.ln_1(x), kept, 0))
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
        if net.text.cls_emb is None:  # else open_clip normalises the class token alone
            x = net.text.ln_final(x)
        layers = zip(cache.tokens[len(text_blocks) :], cache.image, decoder.resblocks, decoder.cross_attn, strict=True)
        for kept, image, block, crossing in layers:
            x = x + block.ls_1(attend(block.attn, block.ln_1(x), kept, 1))
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
            x = x + crossing.ls_1(cross(crossing.attn, crossing.ln_1(x), image))
            x = x + crossing.ls_2(crossing.mlp(crossing.ln_2(x)))
        return linear(decoder.ln_final(x), self.projection).float()

    def _counts(self, ids: Tensor, token: Tensor, last: Tensor) -> Tensor:
        """bool[slots, beams]: whether the text tower lets later tokens look at this one.

        It hides padding, which is a word of captions too. The published CoCas were trained with that mask one place
        off: a padding token hides the token after it.
        """
        text = self.net.text
        if text.cls_emb is None:
            return torch.ones_like(token, dtype=torch.bool)
        if text.correct_cls_mask:
            return token != text.pad_id
        before = ids.gather(2, (last - 1).clamp(min=0))[..., 0]
        return (before != text.pad_id) | (last[..., 0] == 0)


def _text_blocks(net: Any) -> Any:
    # A text tower that is not open_clip's own has no such blocks, and is refused above.
    return getattr(getattr(net.text, "transformer", None), "resblocks", [None])


def _spread(x: Tensor, n: int) -> Tensor:
    """[slots, beams, …] → [slots · n, beams, …], the same for each of n heads."""
    return x[:, None].expand(-1, n, *x.shape[1:]).flatten(0, 1)


def _attention(attn: Attention, q: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention of q [slots · heads, beams, d] to kept [2 (keys, values), slots · heads, places, d], and what
    `attn` makes of it, [slots, beams, width]. `mask` is added to the scores.

    By plain products: torch's fused attention copies keys and values that do not lie as it likes them.
    """
    keys, values = kept
    scores = torch.baddbmm(mask, q, keys.mT, alpha=q.shape[-1] ** -0.5)
    return attn.out(torch.bmm(scores.softmax(dim=-1), values).unflatten(0, (-1, attn.heads)))
