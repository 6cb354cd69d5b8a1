"""The perceptual hash of a picture: 64 bits, of which copies of it share all but a few.

The DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010): which of the lowest
frequencies of a small grey version are above their median. What it was seen to tell apart: docs/decisions/0012.
"""

import numpy as np
from PIL import Image

SIDE = 64  # pixels of the short side that a picture is decoded to: JPEG then decodes at a half, a quarter or an eighth
GRID = 32  # pixels of the grey version
LOWEST = slice(1, 9)  # frequencies of either direction: 0 is brightness, which copies differ in
# An even page or a black frame has no pattern of one grey level anywhere: its bits would be those of noise.
FEATURELESS = 1.0

IDENTITY = {
    "hash": "pHash: 8 × 8 lowest frequencies but 0 of a DCT of 32 × 32 grey pixels, above their median",
    "bits": 64,
    "decoding": f"upright sRGB, reduced towards {SIDE} pixels, Lanczos",
    "featureless": FEATURELESS,
}


def _cosines() -> np.ndarray:
    """The orthonormal DCT-II as a matrix, float32[GRID, GRID]: a row a frequency."""
    frequency, pixel = np.arange(GRID)[:, None], np.arange(GRID)[None]
    waves = np.cos(np.pi * (2 * pixel + 1) * frequency / (2 * GRID)) * np.sqrt(2 / GRID)
    waves[0] /= np.sqrt(2)
    return waves.astype(np.float32)


DCT = _cosines()


def phash(image: Image.Image) -> bytes | None:
    """The hash of an upright sRGB picture, 8 bytes; None where there is nothing in it to tell it by."""
    grey = image.convert("L").resize((GRID, GRID), Image.Resampling.LANCZOS)
    lowest = (DCT @ np.asarray(grey, np.float32) @ DCT.T)[LOWEST, LOWEST]
    if np.abs(lowest).max() < FEATURELESS * GRID / 2:  # what a wave of that height comes to
        return None
    return np.packbits(lowest > np.median(lowest)).tobytes()
