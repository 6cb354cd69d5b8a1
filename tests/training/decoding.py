"""Decodes forty pictures into a folder of squares, and dies at one of them where it is told to.

A program of its own, so that it can be killed: python -m tests.training.decoding FOLDER DIE_AT
"""

import io
import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.training import decoded

SIDE, NUMBER, BLOCK = 8, 40, 7
BROKEN = 11  # of these pictures


def squares(folder: Path, die_at: int | None = None) -> tuple[np.ndarray, dict[int, str], list[int]]:
    """What `decoded.squares` gives, and the numbers of the pictures that were decoded now."""
    decodings: list[int] = []

    def picture(number: int) -> bytes:
        if number == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        decodings.append(number)
        file = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), (5 * number, 0, 0)).save(file, "PNG")
        return b"no picture" if number == BROKEN else file.getvalue()

    def read(places: range) -> list[decoded.Held]:
        return [partial(picture, number) for number in places]

    every = [range(start, min(start + BLOCK, NUMBER)) for start in range(0, NUMBER, BLOCK)]
    blocks = [decoded.Block(places, partial(read, places)) for places in every]
    decoder = decoded.Decoder(np.asarray, SIDE, 10**6)
    found, unusable = decoded.squares(folder, blocks, decoder, lambda items, total, what: items)
    return found, unusable, sorted(decodings)


if __name__ == "__main__":
    squares(Path(sys.argv[1]), int(sys.argv[2]))
