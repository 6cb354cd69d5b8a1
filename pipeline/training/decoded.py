"""Pictures decoded once: a training looks at each again and again, so their squares lie in one file on this machine.

The file is `pixels.npy`, in blocks; `blocks.jsonl` beside it has a line for each block that is whole. Who is killed
loses the block under way. Of several processes that want the same pictures one decodes them and the others wait.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import filelock
import numpy as np
from PIL import Image

from pipeline import imaging, storage
from pipeline.evaluation.recall import Shown

# A picture's bytes, its pixels uint8[h, w, 3], what reads its bytes; None where there is none any more.
Held = bytes | np.ndarray | Callable[[], bytes] | None
Fit = Callable[[Image.Image], np.ndarray]  # as openclip.Model.preprocess


@dataclass(frozen=True)
class Block:
    """Pictures that are read together: where they go in the file, and what gives them in that order."""

    places: Sequence[int]
    read: Callable[[], Iterable[Held]]


@dataclass(frozen=True)
class Decoder:
    """How a picture becomes a square.

    Attributes:
        fit: the model's own preprocessing, without what is done on the device
        side: of the squares
        max_pixels: pictures with more are too_large
    """

    fit: Fit
    side: int
    max_pixels: int

    def square(self, held: Held) -> np.ndarray | str:
        """uint8[side, side, 3], or why there is none: a key of `photo.REASONS`, no_picture or unreadable."""
        if held is None:
            return "no_picture"
        if isinstance(held, np.ndarray):
            return self._fitted(Image.fromarray(held))
        try:
            data = held if isinstance(held, bytes) else held()
            return self._fitted(imaging.decode(data, max_pixels=self.max_pixels, side=self.side))
        except imaging.BadImage as error:
            return error.reason
        except OSError:
            return "unreadable"

    def _fitted(self, image: Image.Image) -> np.ndarray:
        square = self.fit(image)
        assert square.shape == (self.side, self.side, 3) and square.dtype == np.uint8, (square.shape, square.dtype)
        return square


def squares(folder: Path, blocks: Sequence[Block], decoder: Decoder, shown: Shown) -> tuple[np.ndarray, dict[int, str]]:
    """The squares of all pictures, decoded unless they are in `folder` already.

    Returns uint8[pictures, side, side, 3], mapped from the file, and place → why there is none there. Other folders
    beside this one go: they hold the same data as they were, photos that are forgotten since among them.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path, journal = folder / "pixels.npy", folder / "blocks.jsonl"
    with filelock.FileLock(folder.parent / ".lock"):
        folder.mkdir(exist_ok=True)  # only now, lest those who waited less sweep it away
        for other in folder.parent.iterdir():
            if other.is_dir() and other != folder:
                shutil.rmtree(other)
        done = _noted(journal)
        if not done:
            number = sum(len(block.places) for block in blocks)
            np.lib.format.open_memmap(path, "w+", np.uint8, (number, decoder.side, decoder.side, 3))
        todo = [number for number in range(len(blocks)) if number not in done]
        left = sum(len(blocks[number].places) for number in todo)
        if todo:
            for _ in shown(_decode(path, journal, blocks, todo, decoder), left, "pictures decoded"):
                pass
            done = _noted(journal)
    return np.load(path, mmap_mode="r"), {place: why for unusable in done.values() for place, why in unusable.items()}


def _decode(
    path: Path, journal: Path, blocks: Sequence[Block], todo: Sequence[int], decoder: Decoder
) -> Iterator[None]:
    """Decode blocks into the file, and note each one that is whole; yields at each picture."""
    pixels = np.load(path, mmap_mode="r")
    size = decoder.side**2 * 3
    with path.open("r+b", buffering=0) as file, journal.open("a", encoding="utf-8") as notes:
        for number in todo:
            unusable = {}
            made = storage.ahead(decoder.square, blocks[number].read())
            for place, square in zip(blocks[number].places, made, strict=True):
                if isinstance(square, str):
                    unusable[place] = square
                else:
                    _write(file, pixels.offset + place * size, square)
                yield
            os.fsync(file.fileno())  # lest a power cut leave the note alone
            # What a kill leaves of a line is then a line of its own.
            notes.write(f"\n{json.dumps({'block': number, 'unusable': unusable})}\n")
            notes.flush()


def _write(file: BinaryIO, offset: int, square: np.ndarray) -> None:
    """Put a square in its place. Through a mapping, a full disk would kill the process instead of raising OSError."""
    file.seek(offset)
    left = memoryview(square.tobytes())
    while left:
        left = left[file.write(left) :]


def _noted(journal: Path) -> dict[int, dict[int, str]]:
    """Of each block that is whole, place → why there is no picture there."""
    found: dict[int, dict[int, str]] = {}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else ():
        try:
            told = json.loads(line)
            found[told["block"]] = {int(place): why for place, why in told["unusable"].items()}
        except (ValueError, TypeError, LookupError):  # empty, or cut off
            continue
    return found
