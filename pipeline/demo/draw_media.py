"""What the demo's pictures were made with: how each medium turns a drawn view into a print.

A medium's function gets `paint`, which draws the scene's view at a size asked for, and puts it on its paper.
"""

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

Paint = Callable[[int, int, float], Image.Image]  # width, height, how far the eye stands to the right → RGB


def photograph(paint: Paint, width: int, height: int, dice: random.Random) -> Image.Image:
    """A colour photograph without a border: darker towards the corners, with a little grain."""
    picture = paint(width, height, 0.0)
    return _grain(_vignette(picture, dice.uniform(0.12, 0.3)), 7.0, dice)


def poster(paint: Paint, width: int, height: int, dice: random.Random) -> Image.Image:
    """Flat inks on cream paper: a wide margin and a double line round the picture."""
    margin = round(0.07 * min(width, height))
    sheet = Image.new("RGB", (width, height), (240, 230, 204))
    sheet.paste(paint(width - 2 * margin, height - 2 * margin, 0.0), (margin, margin))
    lines = Image.new("L", (2 * width, 2 * height))  # twice the size, for in small pictures they are finer than a pixel
    thick = max(1, round(2 * margin / 9))
    for inset in (2 * thick, 2 * margin):
        box = (inset, inset, 2 * width - 1 - inset, 2 * height - 1 - inset)
        ImageDraw.Draw(lines).rectangle(box, outline=255, width=thick)
    sheet.paste(dice.choice(((58, 50, 46), (44, 52, 62), (64, 48, 40))), mask=lines.reduce(2))
    return sheet


def sepia_print(paint: Paint, width: int, height: int, dice: random.Random) -> Image.Image:
    """A toned paper print of one brown ink, faded towards its yellowed border."""
    margin = round(0.05 * min(width, height))
    view = paint(width - 2 * margin, height - 2 * margin, 0.0)
    grey = ImageOps.grayscale(_vignette(view, -dice.uniform(0.3, 0.55)))
    toned = ImageOps.colorize(grey, (56, 34, 20), (238, 220, 184), mid=(160, 120, 82))
    paper = Image.new("RGB", (width, height), (228, 208, 170))
    paper.paste(toned, (margin, margin))
    return _grain(_stain(paper, dice), 9.0, dice)


def stereograph(paint: Paint, width: int, height: int, dice: random.Random) -> Image.Image:
    """Two views side by side, arched at the top, seen from two eyes, on a card; no colours."""
    card = Image.new("RGB", (width, height), dice.choice(((196, 164, 112), (204, 178, 128), (186, 160, 122))))
    gap = round(0.035 * min(width, height))
    inner_width, inner_height = (width - 3 * gap) // 2, height - 2 * gap
    arch = Image.new("L", (inner_width, inner_height))
    radius = round(0.22 * min(inner_width, inner_height))
    ink = ImageDraw.Draw(arch)
    ink.rounded_rectangle((0, 0, inner_width - 1, inner_height + radius), radius, fill=255)
    for eye, left in ((-1.0, gap), (1.0, width - gap - inner_width)):
        grey = ImageOps.grayscale(_vignette(paint(inner_width, inner_height, eye), 0.3))
        card.paste(ImageOps.colorize(grey, (26, 26, 30), (232, 230, 222)), (left, gap), arch)
    return _grain(card, 8.0, dice)


DRAWERS: dict[str, Callable[[Paint, int, int, random.Random], Image.Image]] = {
    "photograph": photograph,
    "poster": poster,
    "sepia print": sepia_print,
    "stereograph": stereograph,
}


def _vignette(picture: Image.Image, strength: float) -> Image.Image:
    """Darken the corners by this share, or lighten them if it is negative."""
    edge = Image.radial_gradient("L").resize(picture.size, Image.Resampling.BILINEAR)
    edge = edge.point([round(abs(strength) * 255 * max(0.0, i / 255 - 0.35) / 0.65) for i in range(256)])
    ink = (0, 0, 0) if strength > 0 else (250, 246, 240)
    return Image.composite(Image.new("RGB", picture.size, ink), picture, edge)


def _grain(picture: Image.Image, strength: float, dice: random.Random) -> Image.Image:
    """Add film grain. It is as fine as a large print's pixels, so it averages away in small sizes."""
    seen = strength * min(1.0, min(picture.size) / 700)
    source = np.random.default_rng(dice.getrandbits(32))
    if seen < 1.0:
        return picture
    noise = source.normal(128.0, seen, (picture.height, picture.width)).clip(0, 255).astype(np.uint8)
    layer = Image.fromarray(noise).filter(ImageFilter.BoxBlur(0.35)).convert("RGB")
    return ImageChops.add(picture, layer, offset=-128)


def _stain(paper: Image.Image, dice: random.Random) -> Image.Image:
    """Foxing: a few faint brown spots, and a darker edge all round."""
    marks = Image.new("L", paper.size)
    ink = ImageDraw.Draw(marks)
    short = min(paper.size)
    for _ in range(dice.randint(4, 9)):
        x, y, r = dice.uniform(0, paper.width), dice.uniform(0, paper.height), dice.uniform(0.003, 0.016) * short
        ink.ellipse((x - r, y - r, x + r, y + r), fill=dice.randint(30, 80))
    ink.rectangle((0, 0, paper.width - 1, paper.height - 1), outline=90, width=max(1, round(0.008 * short)))
    soft = marks.filter(ImageFilter.BoxBlur(max(1, round(0.004 * short))))
    return Image.composite(Image.new("RGB", paper.size, (112, 76, 42)), paper, soft)
