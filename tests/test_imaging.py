"""Any bytes end as upright sRGB pixels or as BadImage with a true reason. A twin is the same scene in 8-bit sRGB."""

import asyncio
import json
import os
import signal
import struct
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.checker import PIPE, Checker
from pipeline.imaging import BadImage, Checked, check, decode, looks_like_image, thumbnail
from pipeline.photo import REASONS

DATA = Path(__file__).parents[2] / "shared" / "data"
MOST = 600_000_000


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """A smooth picture in which every channel, and every corner, differs."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = (0.1 + 0.8 * x, 0.2 + 0.7 * y, 0.9 - 0.6 * x * y)
    return Image.fromarray(np.stack([np.round(255 * c) for c in channels], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two RGB pictures of one size, as a part of full scale."""
    assert one.size == other.size and one.mode == other.mode == "RGB"
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()) / 255


def reason(data: bytes, max_pixels: int = MOST) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, max_pixels=max_pixels)
    assert caught.value.reason in REASONS and str(caught.value)
    return caught.value.reason


def tiff(array: np.ndarray, *, photometric: int, bits: int, byte_order: str = "<", sample_format: int = 1) -> bytes:
    """A one-strip uncompressed TIFF of the samples in `array` [h, w] or [h, w, channels], as scanners write them."""
    height, width = array.shape[:2]
    channels = array.shape[2] if array.ndim == 3 else 1
    pixels = np.ascontiguousarray(array, array.dtype.newbyteorder(byte_order)).data.cast("B")
    more = struct.pack(f"{byte_order}{channels}H", *[bits] * channels)
    start = 8 + len(pixels)
    bits_value = bits if channels == 1 else start
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits_value), (259, 3, 1, 1),
               (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, height),
               (279, 4, 1, len(pixels)), (339, 3, 1, sample_format)]  # fmt: skip
    head = struct.pack(f"{byte_order}2sHI", b"II" if byte_order == "<" else b"MM", 42, start + len(more))
    directory = struct.pack(f"{byte_order}H", len(entries))
    for tag, kind, count, value in entries:
        as_short = kind == 3 and count == 1
        directory += struct.pack(f"{byte_order}HHI" + ("H2x" if as_short else "I"), tag, kind, count, value)
    return b"".join((head, pixels, more, directory, bytes(4)))


def profile(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", inside: bytes = b"XYZ ") -> bytes:
    """An ICC profile, version 2, of these tags."""
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78), b"cprt": text(b"-"), **tags}
    place, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", place + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s", place + len(body), b"test", 0x02400000, kind, space, inside, b"acsp")
    return head + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + table + body


def text(words: bytes) -> bytes:
    return b"text" + bytes(4) + words + b"\0"


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * value) for value in values))


def gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * value))


WHITE = {b"wtpt": xyz(0.9642, 1.0, 0.8249)}
# Adobe RGB (1998): its primaries seen from the profile connection space's white (D50), gamma 2.2.
ADOBE_MATRIX = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
ADOBE_CURVE = {name: gamma(563 / 256) for name in (b"rTRC", b"gTRC", b"bTRC")}
ADOBE = profile(
    b"RGB ",
    {**WHITE, **dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), (xyz(*c) for c in ADOBE_MATRIX.T), strict=True)), **ADOBE_CURVE},
)
SRGB_MATRIX = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def as_adobe(image: Image.Image) -> Image.Image:
    """The same colours in Adobe RGB's numbers, without its profile; worked out here, not by the library under test."""
    value = np.asarray(image, float) / 255
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    adobe = np.clip(light @ (np.linalg.inv(ADOBE_MATRIX) @ SRGB_MATRIX).T, 0, 1) ** (256 / 563)
    return Image.fromarray(np.round(255 * adobe).astype(np.uint8))


def press() -> bytes:
    """A CMYK profile whose inks are ideal: paper minus ink, so that its sRGB twin is known. lut8, 9 points an axis."""
    axis = np.linspace(0, 1, 9)
    c, m, y, k = np.meshgrid(axis, axis, axis, axis, indexing="ij")
    ideal = np.stack([(1 - ink) * (1 - k) for ink in (c, m, y)], axis=-1)
    picture = Image.fromarray(np.round(255 * ideal.reshape(-1, 1, 3)).astype(np.uint8))
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    grid = np.asarray(to_lab.apply(picture)).reshape(-1, 3) ^ np.array(
        [0, 128, 128], np.uint8
    )  # Pillow gives a, b signed
    identity = struct.pack(">9i", *(65536 * int(i in (0, 4, 8)) for i in range(9)))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 9, 0)) + identity + 4 * ramp + grid.tobytes() + 3 * ramp
    return profile(b"CMYK", {**WHITE, b"A2B0": table, b"A2B1": table}, b"prtr", b"Lab ")


TWIN = scene()
DEEP = np.asarray(TWIN).astype(np.uint16) * 257  # its 16 bits
GREY = TWIN.convert("L")
WIDE = np.asarray(GREY).astype(np.uint16) * 257  # the grey twin's 16 bits


@pytest.mark.parametrize(
    ("data", "twin"),
    [
        pytest.param(encoded(Image.fromarray(WIDE), "PNG"), GREY, id="16-bit grey PNG"),
        pytest.param(encoded(Image.fromarray(WIDE), "TIFF"), GREY, id="16-bit grey TIFF"),
        pytest.param(tiff(WIDE, photometric=1, bits=16, byte_order=">"), GREY, id="16-bit grey TIFF, big-endian"),
        pytest.param(tiff(65535 - WIDE, photometric=0, bits=16), GREY, id="16-bit grey TIFF, white is zero"),
        pytest.param(tiff(WIDE // 16, photometric=1, bits=16), GREY, id="12 bits in 16"),
        pytest.param(encoded(Image.fromarray(WIDE.astype(np.int32)), "PPM"), GREY, id="16-bit PGM"),
        pytest.param(encoded(Image.fromarray(WIDE), "JPEG2000"), GREY, id="16-bit JPEG 2000"),
        pytest.param(encoded(Image.fromarray(WIDE / np.float32(65535)), "TIFF"), GREY, id="float, 0 to 1"),
        pytest.param(encoded(Image.fromarray(WIDE / np.float32(257)), "TIFF"), GREY, id="float, 0 to 255"),
        pytest.param(tiff(DEEP, photometric=2, bits=16), TWIN, id="16-bit RGB TIFF"),
        pytest.param(
            tiff(DEEP, photometric=2, bits=16, byte_order=">"),
            TWIN,
            id="16-bit RGB TIFF, big-endian",
        ),
        pytest.param(encoded(TWIN.convert("CMYK"), "TIFF"), TWIN, id="CMYK TIFF"),
        pytest.param(encoded(TWIN.convert("CMYK"), "JPEG", quality=95), TWIN, id="CMYK JPEG"),
        pytest.param(encoded(TWIN.convert("CMYK"), "TIFF", icc_profile=press()), TWIN, id="CMYK with a profile"),
        pytest.param(encoded(as_adobe(TWIN), "PNG", icc_profile=ADOBE), TWIN, id="Adobe RGB PNG"),
        pytest.param(encoded(as_adobe(TWIN), "JPEG", icc_profile=ADOBE, quality=95), TWIN, id="Adobe RGB JPEG"),
        pytest.param(encoded(TWIN, "PNG", icc_profile=ADOBE[:200]), TWIN, id="broken profile"),
        pytest.param(encoded(GREY, "PNG", icc_profile=ADOBE), GREY, id="a profile for another mode"),
        pytest.param(encoded(TWIN.quantize(256), "PNG"), TWIN, id="palette"),
        pytest.param(encoded(TWIN.convert("YCbCr"), "TIFF"), TWIN, id="YCbCr TIFF"),
        pytest.param(encoded(TWIN.convert("LAB"), "TIFF"), TWIN, id="Lab TIFF"),
        pytest.param(encoded(TWIN, "AVIF", quality=95), TWIN, id="AVIF"),
        pytest.param(encoded(TWIN, "WEBP", lossless=True), TWIN, id="WebP"),
    ],
)
def test_colours_match_the_twin(data: bytes, twin: Image.Image) -> None:
    picture = decode(data, max_pixels=MOST)
    assert difference(picture, twin.convert("RGB")) < 0.02


def test_a_profile_changes_the_picture() -> None:
    """Otherwise the twins above would say nothing about profiles."""
    assert difference(as_adobe(TWIN), TWIN) > 0.02
    assert difference(decode(encoded(TWIN, "PNG", icc_profile=ADOBE), max_pixels=MOST), TWIN) > 0.02


def test_plain_16_bit_conversion_would_clip() -> None:
    assert difference(Image.fromarray(WIDE).convert("RGB"), GREY.convert("RGB")) > 0.2


def half_clear(mode: str) -> Image.Image:
    """The scene with its left half see-through."""
    alpha = Image.new("L", TWIN.size, 255)
    alpha.paste(0, (0, 0, TWIN.width // 2, TWIN.height))
    picture = TWIN.convert(mode)
    picture.putalpha(alpha)
    return picture


def keyed(mode: str, colour: object) -> bytes:
    """A PNG of one colour, which it declares to be transparent."""
    return encoded(Image.new(mode, (4, 4), colour), "PNG", transparency=colour)


@pytest.mark.parametrize("data", [
    encoded(half_clear("RGB"), "PNG"), encoded(half_clear("L"), "PNG"), encoded(half_clear("RGB"), "WEBP"),
    encoded(half_clear("RGB").quantize(200), "PNG"), encoded(half_clear("RGB"), "GIF"),
])  # fmt: skip
def test_alpha_lies_over_white(data: bytes) -> None:
    picture = np.asarray(decode(data, max_pixels=MOST))
    middle = TWIN.width // 2
    assert picture[:, : middle - 1].min() > 250
    assert picture[:, middle + 1 :].mean() < 200


@pytest.mark.parametrize("data", [
    keyed("L", 9), keyed("RGB", (9, 8, 7)), keyed("1", 0), keyed("I;16", 4000),
])  # fmt: skip
def test_the_transparent_colour_is_white(data: bytes) -> None:
    assert np.asarray(decode(data, max_pixels=MOST)).min() == 255


def test_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        red, _, blue = np.asarray(decode(data, max_pixels=MOST)).reshape(-1, 3).mean(axis=0)
        assert red > 200 > 50 > blue, format


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(format: str, orientation: int) -> None:
    turned = {1: (), 2: (0,), 3: (3,), 4: (1,), 5: (5,), 6: (2,), 7: (6,), 8: (4,)}[orientation]
    stored = TWIN
    for method in turned:  # what the camera stored: the inverse of what EXIF asks for
        stored = stored.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, format, exif=exif)
    assert difference(decode(data, max_pixels=MOST), TWIN) < 0.02
    found = check(data, max_pixels=MOST, derivative=True)
    assert (found.width, found.height) == (found.derivative_width, found.derivative_height) == TWIN.size


@pytest.mark.skipif(not DATA.exists(), reason="the shared data is not here")
@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
def test_upright_photographs(shape: str) -> None:
    folder = DATA / "exif_orientation"
    upright = decode((folder / f"{shape}_1.jpg").read_bytes(), max_pixels=MOST)
    for orientation in range(9):
        picture = decode((folder / f"{shape}_{orientation}.jpg").read_bytes(), max_pixels=MOST)
        assert difference(picture, upright) < 0.05, orientation


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "truncated"),
        (b"\xff", "truncated"),
        (b"GIF89a", "truncated"),
        (b"<!doctype html><title>404</title>", "not_an_image"),
        (b'{"stat": "fail"}', "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (b"BMW was founded in 1916, and this is text.", "not_an_image"),
        (b"%PDF-1.4\n\x00\x01\x02", "not_an_image"),
        (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(24), "not_an_image"),
        (bytes(5000), "not_an_image"),
        (b"\xff\xd8\xff\xe0" + bytes(5000), "corrupt"),
        (b"\x89PNG\r\n\x1a\n" + 50 * b"\xa5", "corrupt"),
    ],
)
def test_reasons(data: bytes, why: str) -> None:
    assert reason(data) == why


@pytest.mark.parametrize(
    ("format", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("AVIF", {}), ("BMP", {}),
     ("JPEG2000", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}), ("TGA", {})],
)  # fmt: skip
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.98])
def test_cut_off_files_are_truncated(format: str, options: dict, kept: float) -> None:
    data = encoded(scene(300, 200), format, **options)
    assert reason(data[: int(kept * len(data))]) == "truncated"


def test_a_jpeg_without_its_end_marker_is_truncated() -> None:
    assert reason(encoded(TWIN, "JPEG")[:-2]) == "truncated"


def test_too_many_pixels_are_never_decoded() -> None:
    square = encoded(Image.new("L", (300, 300)), "PNG")
    assert decode(square, max_pixels=90_000).size == (300, 300)
    assert reason(square, max_pixels=89_999) == "too_large"
    assert reason(png_of(60_000, 60_000)) == "too_large"
    inner = encoded(Image.new("RGB", (2000, 2000)), "PNG")
    icon = (
        encoded(Image.new("RGB", (16, 16)), "ICO", sizes=[(16, 16)])[:14] + struct.pack("<II", len(inner), 22) + inner
    )
    assert reason(icon, max_pixels=1_000_000) == "too_large"


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims that size and which holds nothing to fill it."""
    data = encoded(Image.new("L", (1, 1)), "PNG")
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def test_a_hint_makes_large_pictures_small_but_not_too_small() -> None:
    large = scene(1600, 1200)
    for data in (encoded(large, "JPEG"), encoded(large, "PNG"), encoded(large.convert("RGBA"), "PNG")):
        assert decode(data, max_pixels=MOST).size == large.size
        picture = decode(data, max_pixels=MOST, side=336)
        assert 336 <= picture.height < 1200
        assert difference(picture, large.resize(picture.size)) < 0.02
    assert decode(encoded(TWIN, "JPEG"), max_pixels=MOST, side=336).size == TWIN.size


def test_derivative() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    data = encoded(scene(2000, 1000), "JPEG", exif=exif, comment=b"a secret", icc_profile=ADOBE)
    found = check(data, max_pixels=MOST, derivative=True)
    assert found.derivative is not None
    with Image.open(BytesIO(found.derivative)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (1024, 512))
        assert not image.getexif() and "comment" not in image.info and "icc_profile" not in image.info
    assert (found.format, found.width, found.height) == ("jpeg", 2000, 1000)
    assert (found.derivative_width, found.derivative_height) == (1024, 512)
    assert check(data, max_pixels=MOST, derivative=False) == Checked("jpeg", 2000, 1000)
    assert (
        check(encoded(TWIN, "PNG"), max_pixels=MOST, derivative=True).derivative_width == TWIN.width
    )  # never enlarged


def test_thumbnail() -> None:
    with Image.open(BytesIO(thumbnail(encoded(scene(600, 900), "PNG"), 120))) as small:
        assert (small.format, small.size) == ("JPEG", (80, 120))


def test_only_what_may_be_a_picture_looks_like_one() -> None:
    for format in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "JPEG2000", "BMP"):
        assert looks_like_image(encoded(TWIN, format)[:12]), format
    assert not looks_like_image(b"title,caption") and not looks_like_image(bytes(12))


# --- the child process ------------------------------------------------------------------------------------------------


def test_the_child_says_what_this_process_says() -> None:
    with Checker(1) as checker:
        for data in (encoded(scene(1500, 900), "JPEG"), encoded(TWIN, "PNG")):
            for derivative in (True, False):
                found = checker.check(data, max_pixels=MOST, derivative=derivative)
                assert found == check(data, max_pixels=MOST, derivative=derivative)
        for data in (b"", b"<html>", encoded(TWIN, "PNG")[:200]):
            with pytest.raises(BadImage) as there:
                checker.check(data, max_pixels=MOST, derivative=True)
            with pytest.raises(BadImage) as here:
                check(data, max_pixels=MOST, derivative=True)
            assert (there.value.reason, str(there.value)) == (here.value.reason, str(here.value))


def test_a_child_killed_from_outside_costs_no_photo() -> None:
    data = encoded(TWIN, "PNG")
    with Checker(1) as checker:
        checker.check(data, max_pixels=MOST, derivative=False)
        before = children()
        os.kill(before[0], signal.SIGKILL)
        assert checker.check(data, max_pixels=MOST, derivative=False) == Checked("png", *TWIN.size)
        assert children() != before


def test_a_file_that_takes_too_long() -> None:
    data = encoded(Image.new("L", (12_000, 12_000)), "PNG", compress_level=1)
    with Checker(1, deadline=0.02) as checker:
        with pytest.raises(BadImage, match=r"more than 0\.02 s") as caught:
            checker.check(data, max_pixels=MOST, derivative=False)
        assert caught.value.reason == "decoder_crashed"
        checker.deadline = 60.0
        assert checker.check(encoded(TWIN, "PNG"), max_pixels=MOST, derivative=False).width == TWIN.width


def test_a_file_that_kills_its_decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No file is known to kill Pillow 13, so the children are given a codec that dies of a certain picture."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "from PIL import QoiImagePlugin\n"
        "QoiImagePlugin.QoiDecoder.decode = lambda self, buffer: os.kill(os.getpid(), 11)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    killer = b"qoif" + struct.pack(">IIBB", 4, 4, 3, 0) + bytes(64)
    good = encoded(TWIN, "PNG")
    with Checker(1) as checker:
        for _ in range(2):
            assert checker.check(good, max_pixels=MOST, derivative=False).format == "png"
            with pytest.raises(BadImage, match="-11") as caught:
                checker.check(killer, max_pixels=MOST, derivative=False)
            assert caught.value.reason == "decoder_crashed"


def test_a_file_that_wants_more_memory_than_it_declares(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from PIL import QoiImagePlugin\nQoiImagePlugin.QoiDecoder.decode = lambda self, buffer: bytearray(2**36)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Checker(1) as checker, pytest.raises(BadImage) as caught:
        checker.check(b"qoif" + struct.pack(">IIBB", 4, 4, 3, 0) + bytes(64), max_pixels=10**6, derivative=False)
    assert caught.value.reason == "too_large"


def test_a_child_that_cannot_start_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Checker(1) as checker, pytest.raises(subprocess.CalledProcessError):
        checker.check(encoded(TWIN, "PNG"), max_pixels=MOST, derivative=False)


def children() -> list[int]:
    """Process ids of this process's children that run the checker."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if int(words[1]) == os.getpid() and b"pipeline.checker" in command and words[0] != "Z":
            found.append(int(status.parent.name))
    return sorted(found)


def test_threads_share_a_checker() -> None:
    pictures = [encoded(scene(20 + i, 30), "PNG") for i in range(24)]
    with Checker(2) as checker, ThreadPoolExecutor(6) as threads:
        found = threads.map(lambda data: checker.check(data, max_pixels=MOST, derivative=False).width, pictures)
        assert list(found) == [20 + i for i in range(24)]
        assert 1 <= len(children()) <= 2
    assert children() == []


def soon(checker: Checker, data: bytes) -> Checked:
    return asyncio.run(checker.check_soon(data, max_pixels=MOST, derivative=False))


def test_a_loop_is_told_what_a_thread_is_told() -> None:
    small, large = encoded(TWIN, "PNG"), encoded(Image.effect_noise((1500, 1000), 80), "PNG")
    assert len(large) > PIPE
    with Checker(1) as checker:
        for data in (small, large, small):
            assert soon(checker, data) == check(data, max_pixels=MOST, derivative=False)
        with pytest.raises(BadImage) as caught:
            soon(checker, small[:200])
        assert caught.value.reason == "truncated"
        assert len(children()) == 1


def test_a_loop_has_as_many_pictures_decoded_as_there_are_children() -> None:
    pictures = [encoded(scene(20 + i, 30), "PNG") for i in range(24)]

    async def widths(checker: Checker) -> list[int]:
        places = asyncio.Semaphore(checker.children)

        async def width(data: bytes) -> int:
            async with places:
                return (await checker.check_soon(data, max_pixels=MOST, derivative=False)).width

        return await asyncio.gather(*map(width, pictures))

    with Checker(2) as checker:
        assert asyncio.run(widths(checker)) == [20 + i for i in range(24)]
        assert 1 <= len(children()) <= 2
    assert children() == []


def test_a_child_that_a_loop_finds_dead_costs_no_photo() -> None:
    data = encoded(TWIN, "PNG")
    with Checker(1) as checker:
        soon(checker, data)
        [before] = children()
        os.kill(before, signal.SIGKILL)
        assert soon(checker, data) == Checked("png", *TWIN.size)
        assert children() != [before]


def test_a_file_that_takes_a_loop_too_long_is_tried_once() -> None:
    slow = encoded(Image.new("L", (12_000, 12_000)), "PNG", compress_level=9)
    assert len(slow) < PIPE
    with Checker(1) as checker:
        soon(checker, encoded(TWIN, "PNG"))
        checker.deadline = 0.02
        with pytest.raises(BadImage, match=r"more than 0\.02 s"):
            soon(checker, slow)
        assert children() == []
        checker.deadline = 60.0
        assert soon(checker, encoded(TWIN, "PNG")).width == TWIN.width


def test_a_child_whose_answer_nobody_waits_for_is_ended() -> None:
    slow, other = encoded(Image.new("L", (12_000, 12_000)), "PNG", compress_level=9), encoded(TWIN, "PNG")

    async def left(checker: Checker) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(checker.check_soon(slow, max_pixels=2**30, derivative=False), 0.01)

    with Checker(1) as checker:
        soon(checker, other)
        asyncio.run(left(checker))
        assert children() == []
        assert soon(checker, other) == Checked("png", *TWIN.size)


@pytest.mark.skipif(not DATA.exists(), reason="the shared data is not here")
def test_nasty_files(capfd: pytest.CaptureFixture[str]) -> None:
    """Every one ends as a picture or with a reason, and as Pillow's own verdict has it."""
    verdicts = [json.loads(line) for line in (DATA / "nasty" / "manifest.jsonl").read_text().splitlines()]
    outcomes: dict[str, str] = {}
    with Checker(2) as checker:
        for verdict in verdicts:
            data = (DATA / "nasty" / verdict["file"]).read_bytes()
            try:
                found = checker.check(data, max_pixels=MOST, derivative=True)
                outcomes[verdict["file"]] = "fetched"
                assert sorted((found.width, found.height)) == sorted(verdict["size"])
            except BadImage as error:
                assert error.reason in REASONS
                outcomes[verdict["file"]] = error.reason
    # The manifest says of it that it decodes, but that takes asking Pillow twice: the first load fails.
    assert outcomes.pop("pillow__broken_data_stream.png") == "corrupt"
    wrong = [
        v["file"] for v in verdicts if v["file"] in outcomes and v["decodes"] != (outcomes[v["file"]] == "fetched")
    ]
    assert wrong == []
    assert {name: why for name, why in outcomes.items() if why not in ("fetched", "corrupt", "truncated")} == {
        "derived__html_error_page.jpg": "not_an_image",
        "derived__json_error.jpg": "not_an_image",
        "derived__svg_named.jpg": "not_an_image",
        "lovell__65536-uint32-limit.png": "too_large",
        "pillow__decompression_bomb.ico": "too_large",
    }
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["JPEG", "16-bit TIFF"])
def test_400_megapixels(kind: str) -> None:
    twin = scene(1000, 1000) if kind == "JPEG" else scene(1000, 1000).convert("L")
    if kind == "JPEG":
        data = encoded(twin.resize((20_000, 20_000), Image.Resampling.NEAREST), kind)
    else:
        wide = np.asarray(twin, np.uint16) * 257
        data = tiff(wide.repeat(20, axis=1).repeat(20, axis=0), photometric=1, bits=16)
    with Checker(1) as checker:
        found = checker.check(data, max_pixels=MOST, derivative=True)
    assert (found.width, found.height, found.derivative_width) == (20_000, 20_000, 1024)
    assert found.derivative
    assert difference(decode(found.derivative, max_pixels=MOST), twin.convert("RGB").resize((1024, 1024))) < 0.02
