"""Bytes → verified upright sRGB pixels. Trusts nothing: not names, not headers, not the decoder's survival.

`decode` and `check` work in this process. `Checker` does `check` in child processes, for
bytes that nobody has decoded before.
"""

import asyncio
import fcntl
import json
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from queue import LifoQueue
from typing import Self

from PIL import Image, ImageFile

from pipeline.pixels import DECODER_ERRORS, hush_warnings, orientation, upright_srgb

# Every format that holds photographs and that Pillow decodes by itself: EPS and WMF, say, would start other programs.
FORMATS = (
    *("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "JPEG2000", "BMP"),
    *("PPM", "PSD", "TGA", "ICO", "PCX", "SGI", "QOI"),
)
SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"8BPS", b"BM", b"qoif", b"\0\0\1\0"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # TIFF, BigTIFF, and the raw formats of cameras made like them
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),  # JPEG 2000
)
# Pillow's own limit is one for the process and ours is one for the source, so ours is checked here. Pillow's stays as a
# ceiling for pictures inside pictures (icons), which it opens on its own: it refuses what has twice this many pixels.
PILLOW_CEILING = Image.MAX_IMAGE_PIXELS = 2**30

DERIVATIVE_EDGE = 1024
SMALLEST_FILE = 26  # bytes; no format makes a picture of less


class BadImage(Exception):
    """Bytes that are no usable picture. `reason` is a key of `photo.REASONS`; str() is the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Checked:
    """What a full decode found: format ("jpeg", "png", …), pixels of the upright picture, a derivative if wanted."""

    format: str
    width: int
    height: int
    derivative: bytes | None = None
    derivative_width: int | None = None
    derivative_height: int | None = None


def decode(data: bytes, *, max_pixels: int, side: int | None = None) -> Image.Image:
    """The picture in `data`, decoded in full: its first frame, upright, 8-bit sRGB (mode "RGB"), alpha over white.

    `side` allows a smaller picture, whose short side still has at least `side` pixels: JPEG then decodes at a half, a
    quarter or an eighth, others are averaged down by a whole number. Raises BadImage.
    """
    with _opened(data, max_pixels) as image:
        return upright_srgb(image, side)


def check(data: bytes, *, max_pixels: int, derivative: bool) -> Checked:
    """Decode all of `data` and say what it is. Raises BadImage.

    The derivative is a JPEG of quality 90 in sRGB, long edge at most 1,024 pixels, without metadata.
    """
    with _opened(data, max_pixels) as image:
        name = {"MPO": "jpeg"}.get(str(image.format), str(image.format).lower())
        size = image.size
        if derivative:
            pixels = upright_srgb(image, _short_side(size, 2 * DERIVATIVE_EDGE))
        elif name == "jpeg":
            # Even at an eighth and without its colours, JPEG reads all of its data; it only saves computing pixels that
            # nobody looks at.
            image.draft("L", (1, 1))
            image.load()
        else:
            upright_srgb(image, 1)
        width, height = size if orientation(image) < 5 else size[::-1]
    if not derivative:
        return Checked(name, width, height)
    small = _fit(pixels, DERIVATIVE_EDGE)
    return Checked(name, width, height, to_jpeg(small), *small.size)


def to_jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """`image` (mode "RGB") as a JPEG file without metadata."""
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def thumbnail(data: bytes, side: int) -> bytes:
    """A JPEG of a picture that was checked before, long edge at most `side` pixels. Raises BadImage."""
    with _opened(data, PILLOW_CEILING) as image:
        pixels = upright_srgb(image, _short_side(image.size, 2 * side))
    return to_jpeg(_fit(pixels, side))


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (12 bytes do) claims to be a picture; a shorter one may be cut off."""
    return (
        any(head[: len(signature)] == signature[: len(head)] for signature in SIGNATURES)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"))
    )


# --- opening, and whose fault it is -----------------------------------------------------------------------------------


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """The picture with its header read. Whatever its bytes make Pillow raise until the block's end becomes BadImage."""
    hush_warnings()
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            _check_size(image, max_pixels)
            if image.format == "ICO":
                image.load()  # only now does an icon know the size of the picture inside it
                _check_size(image, max_pixels)
            yield image
    except Image.DecompressionBombError as error:
        told = str(error).partition(" exceeds")[0]
        raise BadImage("too_large", f"{told}, more than max_pixels = {max_pixels}") from None
    except DECODER_ERRORS as error:
        reason = _reason(data, error)
        detail = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):  # its text holds nothing but an address in memory
            detail = f"{len(data)} bytes that begin with {data[:16]!r}"
        raise BadImage(reason, detail) from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage("too_large", f"{width} × {height} pixels, more than max_pixels = {max_pixels}")


def _reason(data: bytes, error: Exception) -> str:
    """Why `data` did not decode, as a key of `photo.REASONS`, given what the decoder said."""
    claims = looks_like_image(data[:12])
    if claims and len(data) < SMALLEST_FILE:
        return "truncated"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in data[:512]):  # text, and "BMW" begins like a bitmap
        return "not_an_image"
    if "truncated" in str(error).lower() or len(data) < _declared_size(data):
        return "truncated"
    return "corrupt" if claims or not isinstance(error, Image.UnidentifiedImageError) else "not_an_image"


def _declared_size(data: bytes) -> int:
    """At least how many bytes the file should have by its own account: of the formats whose decoders do not say it."""
    if data[:4] == b"RIFF":  # WebP
        return 8 + int.from_bytes(data[4:8], "little")
    if data[:3] == b"GIF" and len(data) > 10:  # its head, its palette and the head of its first frame
        return 13 + (6 << (data[10] & 7) if data[10] & 128 else 0) + 11
    if data[4:8] in (b"ftyp", b"jP  "):  # AVIF and JPEG 2000 are rows of boxes, each with its size in front
        end = 0
        while end + 8 <= len(data):
            size = int.from_bytes(data[end : end + 4], "big")
            if size == 1:
                size = int.from_bytes(data[end + 8 : end + 16], "big")
            if size < 8:  # 0: as far as the file goes
                break
            end += size
        return end
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order and len(data) >= 16:  # TIFF: a directory, which most writers put at the end, and its place in the header
        version, near, far = struct.unpack_from(order + "2xHIQ", data)
        start, count, entry = (near, "H", 12) if version == 42 else (far, "Q", 20)
        entries: int = start + struct.calcsize(count)
        return entries if entries > len(data) else entries + entry * struct.unpack_from(order + count, data, start)[0]
    return 0


def _short_side(size: tuple[int, int], edge: int) -> int:
    """The short side of a picture of `size` when its long one is `edge`."""
    return max(1, min(size) * edge // max(size))


def _fit(image: Image.Image, edge: int) -> Image.Image:
    """`image` with its long edge at most `edge`."""
    scale = edge / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


# --- in a process that a file may kill --------------------------------------------------------------------------------

TOLD = ("format", "width", "height", "derivative_width", "derivative_height")  # of Checked, as JSON
REQUEST = struct.Struct("!QQ?d")  # bytes of data, max_pixels, derivative, CPU seconds allowed; the data follows
PIPE = 1 << 20  # bytes that wait for the child: most files go in one piece, and the sender need not wake up again
ANSWER = struct.Struct("!II")  # bytes of JSON (Checked, or reason and detail), bytes of derivative; both follow


def cpus() -> int:
    """CPUs that this process may use: those of OMP_NUM_THREADS, which Ray's workers are given, else those it sees."""
    if threads := os.environ.get("OMP_NUM_THREADS"):
        return int(threads)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Checker:
    """`check`, in child processes, so that a file that kills its decoder is BadImage("decoder_crashed") and no more.

    A context manager. Threads may share it: each call has a child for itself, and waits while all are at work. Children
    start when needed, are limited in memory and, a file, in seconds of CPU (that a machine is busy is no fault of the
    file's), and die with this process.
    """

    def __init__(self, children: int | None = None, deadline: float = 60.0) -> None:
        self.deadline = deadline
        self.children = children or cpus()
        self._idle: LifoQueue[subprocess.Popen[bytes] | None] = LifoQueue()
        for _ in range(self.children):
            self._idle.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children that are at rest. Another call starts new ones."""
        for child in [self._idle.get() for _ in range(self._idle.qsize())]:
            if child:
                _end(child)
            self._idle.put(None)

    def check(self, data: bytes, *, max_pixels: int, derivative: bool) -> Checked:
        """As `imaging.check`."""
        request = REQUEST.pack(len(data), max_pixels, derivative, self.deadline)
        return self._check(self._idle.get(), request, data)

    async def check_soon(self, data: bytes, *, max_pixels: int, derivative: bool) -> Checked:
        """As `check`, on an event loop, which goes on meanwhile: at most `children` of these at a time."""
        request = REQUEST.pack(len(data), max_pixels, derivative, self.deadline)
        child = self._idle.get()
        # The loop itself asks where it need not wait before the pipe, a thread where it must, or where a child is to be
        # started or to be buried.
        if child and len(request) + len(data) <= _room(child) and _send(child, request, data):
            try:
                await _readable(child)
            except asyncio.CancelledError:
                child.kill()  # it is at work for nobody
                _end(child)
                self._idle.put(None)
                raise
            if answer := _receive(child):
                self._idle.put(child)
                return _checked(*answer)
        return await asyncio.to_thread(self._check, child, request, data)

    def _check(self, child: subprocess.Popen[bytes] | None, request: bytes, data: bytes) -> Checked:
        try:
            while True:
                fresh = child is None
                child = child or _start()
                if _send(child, request, data) and (answer := _receive(child)):
                    return _checked(*answer)
                status, child = _end(child), None
                if status == -signal.SIGPROF:
                    raise BadImage("decoder_crashed", f"took more than {self.deadline:g} s of CPU to decode")
                if fresh:
                    raise BadImage("decoder_crashed", f"the process that decoded it ended with status {status}")
                # It had decoded other files before, and one of those may have done the damage: ask a fresh one.
        finally:
            self._idle.put(child)


def _start() -> subprocess.Popen[bytes]:
    """A child that is ready. Dies with CalledProcessError where it cannot start: no file is to blame for that."""
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline.imaging"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        process_group=0,  # Ctrl-C is for its parent, which ends it
    )
    assert child.stdin and child.stdout
    with suppress(OSError, AttributeError):  # beyond what the user may have; not on this system
        fcntl.fcntl(child.stdin, fcntl.F_SETPIPE_SZ, PIPE)
    if child.stdout.read(1) != b"+":
        raise subprocess.CalledProcessError(_end(child), child.args)
    return child


def environment() -> dict[str, str]:
    """What a child that reads what strangers sent needs of the environment: no key, no token."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    return kept | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}  # BLAS threads would eat address space


def _room(child: subprocess.Popen[bytes]) -> int:
    """Bytes that a child at rest can be sent without waiting."""
    assert child.stdin
    return fcntl.fcntl(child.stdin, fcntl.F_GETPIPE_SZ) if hasattr(fcntl, "F_GETPIPE_SZ") else 0


def _send(child: subprocess.Popen[bytes], request: bytes, data: bytes) -> bool:
    """Whether the child was there to be asked."""
    assert child.stdin
    try:
        child.stdin.write(request + data)
        child.stdin.flush()
    except BrokenPipeError:
        return False
    return True


async def _readable(child: subprocess.Popen[bytes]) -> None:
    """Wait until the child answers, or dies."""
    assert child.stdout
    loop = asyncio.get_running_loop()
    answers = asyncio.Event()
    loop.add_reader(child.stdout, answers.set)
    try:
        await answers.wait()
    finally:
        loop.remove_reader(child.stdout)


def _receive(child: subprocess.Popen[bytes]) -> tuple[bytes, bytes] | None:
    """(JSON, derivative) that the child answers, None where it died instead."""
    assert child.stdout
    head = child.stdout.read(ANSWER.size)
    if len(head) < ANSWER.size:
        return None
    told, made = ANSWER.unpack(head)
    body = child.stdout.read(told + made)
    return (body[:told], body[told:]) if len(body) == told + made else None


def _end(child: subprocess.Popen[bytes]) -> int:
    """Close a child's pipes, which ends it if it lives; its exit status, minus the signal that killed it."""
    assert child.stdin and child.stdout
    with suppress(BrokenPipeError):
        child.stdin.close()
    child.stdout.close()
    return child.wait()


def _checked(told: bytes, derivative: bytes) -> Checked:
    """What the child's answer says. Raises BadImage."""
    said = json.loads(told)
    if "reason" in said:
        raise BadImage(said["reason"], said["detail"])
    return Checked(**said, derivative=derivative or None)


def _serve() -> None:
    """The child: answers requests until its input ends."""
    requests, answers = os.fdopen(os.dup(0), "rb", PIPE), os.fdopen(os.dup(1), "wb")
    # C libraries print their complaints about bad files; only our own tracebacks are to be seen.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    answers.write(b"+")
    answers.flush()
    while head := requests.read(REQUEST.size):
        size, max_pixels, derivative, deadline = REQUEST.unpack(head)
        _limit_memory(size, max_pixels)
        made = b""
        try:
            data = requests.read(size)
            signal.setitimer(signal.ITIMER_PROF, deadline)  # SIGPROF kills, even inside a decoder, even an orphan
            checked = check(data, max_pixels=max_pixels, derivative=derivative)
            made = checked.derivative or b""
            said = {name: getattr(checked, name) for name in TOLD}
        except BadImage as error:
            said = {"reason": error.reason, "detail": str(error)}
        except MemoryError:
            said = {"reason": "too_large", "detail": "decoding it takes more memory than its pixels account for"}
        told = json.dumps(said).encode()
        answers.write(ANSWER.pack(len(told), len(made)) + told + made)
        answers.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory(size: int, max_pixels: int) -> None:
    """Let this process have the file of `size` bytes twice, 12 bytes a pixel (Pillow takes 4, and some steps need a
    copy), and 2 GiB for itself. Beyond that lie files that lie about their size."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = 2 * size + 12 * max_pixels + 2**31
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


if __name__ == "__main__":
    _serve()
