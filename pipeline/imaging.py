"""Bytes → verified upright sRGB pixels. Trusts nothing: neither names nor headers.

`decode` and `check` work in this process. checker.py does `check` in child processes, for bytes that nobody has
decoded before.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

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


def cpus() -> int:
    """CPUs that this process may use: those of OMP_NUM_THREADS, which Ray's workers are given, else those it sees."""
    if threads := os.environ.get("OMP_NUM_THREADS"):
        return int(threads)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
