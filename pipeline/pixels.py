"""What Pillow could open → upright 8-bit sRGB pixels, of any kind: profiles, 16 bits, CMYK, alpha, turns."""

import functools
import logging
import struct
import warnings
import zlib
from contextlib import suppress
from io import BytesIO

from PIL import Image, ImageChops, ImageCms, ImageFile, ImageOps

# Pillow gives no list of what its decoders raise on bad bytes. These have been seen on fuzzed files.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError,
                  RuntimeError, struct.error, zlib.error)  # fmt: skip

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what matters of bad files is raised, not printed

TURNS = {  # EXIF's orientation: how to turn the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
STRIP = 64  # rows; those of the widest pictures still fit a processor's cache


def hush_warnings() -> None:
    """Have Pillow's warnings ignored, in this process. To be called before each use of Pillow on bytes from outside:
    others reset the filters, to repeat it changes nothing, and `warnings.catch_warnings` would not be thread-safe."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def upright_srgb(image: ImageFile.ImageFile, side: int | None) -> Image.Image:
    """The upright sRGB pixels of an opened picture; mode "RGB", without metadata.

    `side` allows a smaller picture: see `imaging.decode`. It is made small before all else, for memory's sake.
    Raises DECODER_ERRORS.
    """
    if side is not None:
        image.draft(None, (side, side))
    image.load()
    pixels = _plain(image)
    if side is not None and (factor := min(pixels.size) // side) > 1:
        pixels = pixels.reduce(factor)
    if pixels.mode in ("LA", "RGBA"):
        white = Image.new(pixels.mode[:-1], pixels.size, "white")
        white.paste(pixels, mask=pixels.getchannel("A"))
        pixels = white
    icc = image.info.get("icc_profile")
    transform = _transform(icc, pixels.mode) if icc else None
    pixels = transform.apply(pixels) if transform else pixels.convert("RGB")
    turn = TURNS.get(orientation(image))
    if turn is not None:
        pixels = pixels.transpose(turn)
    pixels.info = {}  # Pillow would write comments and profiles found here into the next file
    return pixels


def _plain(image: Image.Image) -> Image.Image:
    """The loaded picture in one of the modes L, LA, RGB, RGBA, CMYK, eight bits a channel."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _scaled(image)
    if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        key = image.info.get("transparency")
        if isinstance(key, tuple) and max(key) > 255:  # a colour of the 16-bit file, of which Pillow keeps 8
            image.info["transparency"] = tuple(value >> 8 for value in key)
        return image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Mode "L" of a picture with one wide channel (16 or 32 bits, or float), scaled: Pillow's convert would clip.

    Files do not say how much of the range is in use, so full scale is the smallest usual one that holds the brightest
    pixel: 12 bits (cameras and scanners put them into 16), 16, 32; of floats 1, 255, 65,535.
    """
    import numpy as np  # takes half the time that a decoding child needs to start, and few pictures need it

    width, height = image.size
    tops = range(0, height, STRIP)

    def strip(top: int) -> np.ndarray:
        rows = np.asarray(image.crop((0, top, width, min(top + STRIP, height))))
        return np.nan_to_num(rows, posinf=0, neginf=0) if image.mode == "F" else rows

    peak = max(float(strip(top).max()) for top in tops)
    usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (4095.0, 65535.0, 2.0**31 - 1)
    full = next((scale for scale in usual if peak <= scale), peak)
    key = image.info.get("transparency")
    grey = Image.new("L", image.size)
    for top in tops:
        rows = strip(top)
        light = np.clip(rows.astype(np.float32) * np.float32(255 / full) + np.float32(0.5), 0, 255).astype(np.uint8)
        if key is not None:
            light[rows == key] = 255
        grey.paste(Image.fromarray(light), (0, top))
    if getattr(image, "tag_v2", {}).get(262) == 0:  # TIFF's WhiteIsZero, which Pillow heeds up to 8 bits only
        grey = ImageOps.invert(grey)
    return grey


@functools.lru_cache(maxsize=32)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from an embedded profile to sRGB, None where there is none to go: it is sRGB already, broken, or not
    for pictures of this mode."""
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    ramp = Image.linear_gradient("L")
    probe = Image.merge("RGB", (ramp, ramp.transpose(TURNS[8]), ramp.transpose(TURNS[4]))).convert(mode)
    change = ImageChops.difference(transform.apply(probe), probe.convert("RGB"))
    return transform if change.point(lambda value: 255 * (value > 2)).getbbox() else None


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8, of a loaded picture. (Of a TIFF it is 1: Pillow has turned it by then.)"""
    with suppress(*DECODER_ERRORS):  # broken EXIF is no reason to lose the picture
        value = image.getexif().get(0x0112)
        return value if value in TURNS else 1
    return 1
