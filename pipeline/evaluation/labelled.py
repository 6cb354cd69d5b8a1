"""Pictures of which is known what they show: folders named by class, and CIFAR-10 and -100 as torchvision has them."""

import io
import pickle
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.photo import UserError

SEED = 0  # of the choice that a limit makes

# What reading a pickle that is damaged, or none, raises, and what asking it for what it should hold.
BROKEN = (
    *(EOFError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, NameError),
    *(RecursionError, MemoryError, struct.error, pickle.UnpicklingError),
)
# By kind: the folder of the archive that its makers publish for Python, the file of test pictures, that of names; where
# in these the classes stand.
CIFAR = {
    "cifar10": ("cifar-10-batches-py", "test_batch", "batches.meta", "labels", "label_names"),
    "cifar100": ("cifar-100-python", "test", "meta", "fine_labels", "fine_label_names"),
}
TRAIN = {"cifar10": tuple(f"data_batch_{number}" for number in range(1, 6)), "cifar100": ("train",)}
Part = Literal["test", "train"]


@dataclass(frozen=True)
class Labelled:
    """Pictures and their classes.

    Attributes:
        names: of the classes
        truth: int64[n], the class of each picture
        pictures: files, or pixels uint8[side, side, 3]
    """

    names: tuple[str, ...]
    truth: np.ndarray
    pictures: Sequence[Path | np.ndarray]


def read(data: str, names: Sequence[str] = (), limit: int | None = None, part: Part = "test") -> Labelled:
    """The pictures of `FOLDER`, `cifar10:PATH` or `cifar100:PATH`.

    Args:
        names: of the classes, each `name`, or `key<tab>name` where the data call it `key`; some may have no pictures.
            Unless given, what the data call them, with spaces for underscores.
        limit: only so many pictures, chosen by chance, always the same
        part: of CIFAR, which pictures; a folder has no parts

    Raises UserError.
    """
    kind, _, path = data.partition(":")
    found = _cifar(kind, Path(path).expanduser(), part) if kind in CIFAR else _folder(Path(data).expanduser())
    found = _named(found, names, data)
    if limit is not None and limit < len(found.truth):
        chosen = np.sort(np.random.default_rng(SEED).permutation(len(found.truth))[:limit])
        found = replace(found, truth=found.truth[chosen], pictures=[found.pictures[i] for i in chosen])
    return found


def _named(found: Labelled, names: Sequence[str], data: str) -> Labelled:
    """The same pictures with the classes that they are to be told among."""
    if not names:
        return replace(found, names=tuple(name.replace("_", " ") for name in found.names))
    keys = [name.partition("\t")[0].strip() for name in names]
    places = {key: place for place, key in enumerate(keys)}
    doubled = [key for key, times in Counter(keys).items() if times > 1]
    if doubled:
        raise UserError(f"--classes names {doubled[0]!r} more than once: each class has one line")
    lacking = [name for name in found.names if name not in places]
    if lacking:
        raise UserError(
            f"--classes names no {', '.join(map(repr, lacking[:5]))}, of which {data} has pictures: "
            "a line of it is a class's name, or what the data call it, a tab, and its name"
        )
    place = np.array([places[name] for name in found.names], np.int64)
    shown = tuple((name.partition("\t")[2] or name).strip() for name in names)
    return replace(found, names=shown, truth=place[found.truth])


def _folder(path: Path) -> Labelled:
    """Files in a folder for each class, however deep; hidden ones are passed over."""
    if not path.is_dir():
        raise UserError(
            f"there is no folder {path}: give a folder with one for each class, cifar10:PATH, cifar100:PATH"
        )
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    pictures: list[Path | np.ndarray] = []
    truth: list[int] = []
    for number, name in enumerate(names):
        inside = ((file, file.relative_to(path).parts) for file in sorted((path / name).rglob("*")))
        files = [file for file, parts in inside if file.is_file() and not any(p.startswith(".") for p in parts)]
        pictures += files
        truth += [number] * len(files)
    if not pictures:
        raise UserError(f"{path} holds no pictures in folders: it should have a folder for each class")
    return Labelled(tuple(names), np.array(truth, np.int64), pictures)


def _cifar(kind: str, path: Path, part: Part) -> Labelled:
    """CIFAR's 10,000 test pictures, or 50,000 to train on, of 32 × 32: a row of bytes each, plane by plane."""
    folder, test, meta, labels, label_names = CIFAR[kind]
    inside = path / folder if (path / folder).is_dir() else path
    files = (test,) if part == "test" else TRAIN[kind]
    lacking = [name for name in (*files, meta) if not (inside / name).is_file()]
    if lacking:
        wanted = f"{', '.join(files)} and {meta}"
        raise UserError(
            f"there is no {folder} with {wanted} in {path}: "
            f"unpack the archive for Python that the makers of {kind.upper()} offer there"
        )
    batches = [_unpickled(inside / name) for name in files]
    named = _unpickled(inside / meta)
    truth: list[np.ndarray] = []
    pictures: list[Path | np.ndarray] = []
    for name, held in zip(files, batches, strict=True):
        try:
            found, classes = np.array(held[labels], np.int64), tuple(map(str, named[label_names]))
            planes = held["data"].pixels.reshape(len(found), 3, 32, 32)
            if found.ndim != 1:
                raise ValueError("labels in a table")
            if len(found) and not 0 <= found.min() <= found.max() < len(classes):
                raise ValueError("classes without a name")
        except BROKEN as error:
            raise UserError(
                f"{inside / name} is not {kind.upper()}'s ({_brief(error)}); unpack its archive anew"
            ) from error
        truth.append(found)
        pictures += list(planes.transpose(0, 2, 3, 1))
    return Labelled(classes, np.concatenate(truth), pictures)


class _Kind:
    """What stands for the kind of an array's elements."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Bytes have no order."""


class _Bytes:
    """What stands for an array of bytes: numpy's own takes damaged ones in more ways than can be told."""

    pixels: np.ndarray

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, held = state
        if kind.code != "u1" or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("its array is not one of bytes")
        data = held.encode("latin1") if isinstance(held, str) else bytes(memoryview(held))
        self.pixels = np.frombuffer(data, np.uint8).reshape(shape, order="F" if by_column else "C")


class _Unpickler(pickle._Unpickler):
    """Reads numbers, texts and arrays of bytes: a pickle can name any other function, and have it called.

    It is the one in Python, for the one in C takes the memory that a damaged file asks for.
    """

    def find_class(self, module: str, name: str) -> Any:
        known: dict[str, Any] = {
            "_reconstruct": _Bytes,
            "ndarray": None,
            "dtype": _Kind,
            "encode": lambda text, _: text.encode("latin1"),
        }
        if name not in known or module.partition(".")[0] not in ("numpy", "_codecs"):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[name]


def _unpickled(path: Path) -> Mapping[str, Any]:
    """A dictionary that Python 2 wrote. Raises UserError."""
    try:
        held = _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (OSError, *BROKEN) as error:
        raise UserError(f"{path} cannot be read as CIFAR's ({_brief(error)}); unpack its archive anew") from error
    if not isinstance(held, dict):
        raise UserError(f"{path} is not CIFAR's: it holds no dictionary")
    return held


def _brief(error: BaseException) -> str:
    """What was raised, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
