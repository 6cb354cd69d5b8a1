"""Contrastive losses over all pictures and texts of a step, and the loss of captions."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.training.settings import LossSettings


def contrastive(
    asked: LossSettings,
    images: Tensor,
    texts: Tensor,
    own: Tensor,
    true: Tensor,
    confusable: Tensor,
    scale: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """The mean loss of a picture.

    Args:
        images, texts: unit vectors, float32[b, dim] and [t, dim]
        own: int64[b], the text that was drawn for each picture
        true, confusable: bool[b, t], as batches.Batch has them
        scale: what cosines are multiplied with
        bias: added to them then; of the sigmoid loss alone
    """
    if asked.contrastive == "soft":
        return soft(images, texts[own], scale)
    logits = scale * images @ texts.T
    weights = 1.0 + (asked.confusable - 1.0) * confusable.to(logits.dtype)
    if asked.contrastive == "sigmoid":
        assert bias is not None
        return sigmoid(logits + bias, true, weights)
    return infonce(logits, true, weights)


def infonce(logits: Tensor, true: Tensor, weights: Tensor | None = None) -> Tensor:
    """CLIP's loss (arXiv 2103.00020) where a text may be true of several pictures: their shares are equal
    (arXiv 2204.03610). With one text a picture it is the mean of two cross entropies.

    Args:
        logits: float[b, t]
        true: bool[b, t], at least one in each row and column
        weights: float[b, t] of false pairs: so many of them stand there
    """
    if weights is not None:
        logits = logits + weights.log()
    target = true.to(logits.dtype)
    by_image = functional.cross_entropy(logits, target / target.sum(dim=1, keepdim=True))
    by_text = functional.cross_entropy(logits.T, (target / target.sum(dim=0, keepdim=True)).T)
    return (by_image + by_text) / 2


def sigmoid(logits: Tensor, true: Tensor, weights: Tensor) -> Tensor:
    """SigLIP's loss (arXiv 2303.15343) with all true pairs of the batch: a yes or no for each picture and text."""
    total = functional.binary_cross_entropy_with_logits(logits, true.to(logits.dtype), weights, reduction="sum")
    return total / len(logits)


def soft(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """The textbook's loss of a dual encoder: pictures and texts that are like those of a pair are not wholly wrong.

    The target of each pair is the softmax of how alike its pictures and its texts are, as the towers see it themselves
    (Keras' example "Natural language image search with a Dual Encoder"); `scale` is one over its temperature.

    Args:
        images, texts: unit vectors of pairs, float[b, dim]
    """
    logits = scale * texts @ images.T
    target = functional.softmax(scale * (images @ images.T + texts @ texts.T) / 2, dim=1)
    by_text = -(target * functional.log_softmax(logits, dim=1)).sum(dim=1)
    by_image = -(target.T * functional.log_softmax(logits.T, dim=1)).sum(dim=1)
    return ((by_text + by_image) / 2).mean()


def captioning(logits: Tensor, asked: Tensor, unused: int) -> Tensor:
    """The sum over a batch's tokens of the cross entropy of the next one.

    Args:
        logits: float[b, length, tokens]
        asked: token ids [b, length], 0 where there is none
        unused: how many tokens the full vocabulary has beyond these; each has a logit of zero
    """
    if unused:
        others = logits.new_full((*logits.shape[:2], 1), math.log(unused))
        logits = torch.cat([logits, others], dim=-1)
    return functional.cross_entropy(logits.flatten(0, 1).float(), asked.flatten(), ignore_index=0, reduction="sum")
