"""JPEG files such as an archive holds, drawn: 640 pixels, some 70 kB, detail at every scale as photographs have it.

Or as small and as fine as one wants them: Flickr's own of 500 pixels have some 100 kB.
"""

from pathlib import Path

import numpy as np
from PIL import Image

SHAPES = ((640, 480), (640, 427), (480, 640), (640, 512))
SCALES = (2, 4, 8, 16, 32, 64, 128)  # pixels that the details of one layer are apart
QUALITY = 88


def draw(seed: int, edge: int = 640) -> Image.Image:
    """Layers of noise, the coarser the stronger; `edge` pixels the long way."""
    random = np.random.default_rng(seed)
    width, height = (side * edge // 640 for side in SHAPES[seed % len(SHAPES)])
    total = np.full((height, width, 3), 128, np.float32)
    for scale in SCALES:
        tones = random.integers(0, 256, (height // scale + 2, width // scale + 2, 3), dtype=np.uint8)
        layer = Image.fromarray(tones).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(layer, np.float32) - 128) * (0.06 * scale**0.45)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def folder(work: Path, n: int, edge: int = 640, quality: int = QUALITY) -> Path:
    """A folder of n of them, made unless it is there."""
    made = work / (f"jpegs-{n}" if (edge, quality) == (640, QUALITY) else f"jpegs-{n}-{edge}-{quality}")
    if not made.exists():
        partly = made.with_name(f"{made.name}.partly")
        partly.mkdir(parents=True, exist_ok=True)
        for seed in range(n):
            draw(seed, edge).save(partly / f"{seed:06}.jpg", quality=quality)
        partly.rename(made)
    return made
