"""Networks with made-up weights, and pictures for them: the same bits on every machine and in every environment.

Real weights cannot be had everywhere. Those that open_clip starts a training with say the same of every picture, so
these are scaled until captions differ from picture to picture and end at different lengths.
"""

import hashlib
import logging
import zlib
from pathlib import Path

import numpy as np
import open_clip
import torch

END = 49407
# How much is added to what the end token scores in every state: by trial, so that most captions end before 30 tokens.
ENDS = {"coca_ViT-B-32": 3.25, "coca_ViT-L-14": 3.25}
BLOCKS = (112, 56, 28, 14, 7)  # pixels of the squares that pictures are made of


def bare(name: str) -> torch.nn.Module:
    """open_clip's network of that name as it starts a training."""
    logging.disable(logging.WARNING)  # of there being no weights
    try:
        return open_clip.create_model(name, load_weights=False, pretrained_text=False)
    finally:
        logging.disable(logging.NOTSET)


def build(name: str, end: float) -> torch.nn.Module:
    """open_clip's network of that name, on CPU in fp32, with made-up weights; `end`: how likely an end is."""
    net = bare(name)
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if key == "logit_scale":
                continue
            parameter.copy_(torch.from_numpy(values(key, tuple(parameter.shape))))
        if hasattr(net, "text_decoder"):
            decoder = net.text_decoder
            # Along the bias of the last norm, 1 or -1 throughout, which every state holds.
            decoder.text_projection[:, END] += end * decoder.ln_final.bias / decoder.width
    return net.eval().requires_grad_(False)


def values(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32[shape] for the parameter of that name. Uniform, since no mathematical library has a say in that."""
    random = np.random.default_rng(zlib.crc32(key.encode()))
    spread = (random.random(shape, dtype=np.float32) - np.float32(0.5)) * np.float32(12**0.5)  # of variance 1
    layer = key.rsplit(".", 2)[-2] if "." in key else key
    if key == "text_decoder.ln_final.bias":
        return np.sign(spread)
    if layer.startswith("ln_"):
        return spread * np.float32(0.1) + np.float32(key.endswith("weight"))
    if key.endswith("bias") or len(shape) < 2:
        return spread * np.float32(0.1)
    if "embedding" in key or key.endswith(("query", "cls_emb")):
        return spread * np.float32(0.5)
    inputs = shape[0] if key.endswith(("proj", "text_projection")) else int(np.prod(shape[1:]))
    return spread * np.float32(inputs**-0.5)


def checkpoint(name: str, folder: Path, ends: bool = True) -> Path:
    """Its weights as a file that open_clip loads, made unless they are there; `ends`: with captions that do."""
    end = ENDS.get(name, 0.0) if ends else 0.0
    path = folder / f"{name}-{end:g}.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partly = path.with_suffix(".partly")
        torch.save(build(name, end).state_dict(), partly)
        partly.rename(path)
    return path


def pictures(n: int, side: int = 224) -> np.ndarray:
    """uint8[n, side, side, 3]: squares of many sizes, each picture of its own."""
    made = np.empty((n, side, side, 3), np.uint8)
    for i in range(n):
        random = np.random.default_rng(i)
        total = np.zeros((side, side, 3), np.int32)
        for block in BLOCKS:
            cells = -(-side // block)
            tones = random.integers(-60, 61, (cells, cells, 3), dtype=np.int32)
            total += tones.repeat(block, 0).repeat(block, 1)[:side, :side]
        made[i] = np.clip(total + 128, 0, 255)
    return made


def fingerprint(path: Path) -> str:
    """16 hex digits of the SHA-256 over all weights of a checkpoint, whatever the file's own form."""
    weights = open_clip.factory.load_state_dict(str(path))
    digest = hashlib.sha256()
    for _, tensor in sorted(weights.items()):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def prepared(net: torch.nn.Module, pixels: np.ndarray) -> torch.Tensor:
    """uint8[n, side, side, 3] → normalised float32[n, 3, side, side], as open_clip's own transform does it."""
    config = net.visual.preprocess_cfg
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    return ((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous()
