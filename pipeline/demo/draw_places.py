"""The places behind the demo's things: sky and ground, one drawing function for each place.

A place is drawn in fractions of the picture (x and y from 0 to 1, y downwards) through a `View`. Everything random
comes from the view's own generator, in an order that does not depend on the picture's size, so that one scene looks
the same at every size.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class View:
    """A picture under way and what its painter needs to know."""

    picture: Image.Image
    horizon: float  # fraction of the height
    dice: random.Random
    flat: bool  # bands instead of gradients

    def gradient(self, top: float, bottom: float, colours: Sequence[Rgb]) -> None:
        """Fill the strip between two heights, blending evenly from the first colour to the last."""
        width, height = self.picture.size
        upper, lower = round(top * height), round(bottom * height)
        steps = 5 if self.flat else 64
        column = Image.new("RGB", (1, steps))
        for i in range(steps):
            place = i / (steps - 1) * (len(colours) - 1)
            first = min(int(place), len(colours) - 2)
            column.putpixel((0, i), mix(colours[first], colours[first + 1], place - first))
        smooth = Image.Resampling.NEAREST if self.flat else Image.Resampling.BILINEAR
        self.picture.paste(column.resize((width, max(1, lower - upper)), smooth), (0, upper))

    def polygon(self, points: Sequence[Point], fill: Rgb) -> None:
        width, height = self.picture.size
        ImageDraw.Draw(self.picture).polygon([(x * width, y * height) for x, y in points], fill=fill)

    def line(self, points: Sequence[Point], fill: Rgb, thickness: float) -> None:
        width, height = self.picture.size
        placed = [(x * width, y * height) for x, y in points]
        ImageDraw.Draw(self.picture).line(placed, fill=fill, width=max(1, round(thickness * height)), joint="curve")

    def oval(self, x: float, y: float, radius: float, fill: Rgb, squeeze: float = 1.0) -> None:
        """A disc of this radius in fractions of the shorter side, `squeeze` times as high."""
        width, height = self.picture.size
        rx = radius * min(width, height)
        ry = rx * squeeze
        box = (x * width - rx, y * height - ry, x * width + rx, y * height + ry)
        ImageDraw.Draw(self.picture).ellipse(box, fill=fill)

    def shade(self, colour: Rgb, spread: int = 12) -> Rgb:
        """The colour, a little lighter or darker by chance."""
        by = self.dice.randint(-spread, spread)
        return (_byte(colour[0] + by), _byte(colour[1] + by), _byte(colour[2] + by))


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


def _byte(value: int) -> int:
    return max(0, min(255, value))


def _sky(view: View, zenith: Rgb, low: Rgb, clouds: int) -> None:
    view.gradient(0.0, view.horizon, [view.shade(zenith), view.shade(low)])
    for _ in range(clouds):
        x, y = view.dice.uniform(0.0, 1.0), view.dice.uniform(0.06, 0.7) * view.horizon
        size = view.dice.uniform(0.05, 0.1)
        for _ in range(5):
            view.oval(
                x + view.dice.uniform(-1.4, 1.4) * size,
                y + view.dice.uniform(-0.25, 0.25) * size,
                size * view.dice.uniform(0.4, 0.8),
                mix(low, (255, 255, 255), 0.5),
                squeeze=0.42,
            )


def at_sea(view: View) -> None:
    _sky(view, (150, 184, 210), (222, 228, 222), view.dice.randint(1, 4))
    view.gradient(view.horizon, 1.0, [view.shade((96, 136, 152)), view.shade((44, 88, 112))])
    for row in range(13):
        near = (row + 1) / 13
        y = view.horizon + (1.0 - view.horizon) * near**1.4
        step = 0.03 + 0.09 * near
        x = view.dice.uniform(-step, 0.0) - step
        crest = []
        while x < 1.0 + step:
            crest += [(x, y), (x + step * 0.5, y - 0.018 * near - 0.003)]
            x += step
        view.line(crest, mix((70, 114, 134), (190, 212, 214), view.dice.uniform(0.25, 0.8)), 0.003 + 0.007 * near)


def in_a_field(view: View) -> None:
    _sky(view, (160, 194, 218), (236, 234, 216), view.dice.randint(1, 4))
    height = 0.03
    hedge = [(0.0, view.horizon + 0.02)]
    for i in range(25):
        hedge.append((i / 24, view.horizon - height * view.dice.uniform(0.3, 1.4)))
    view.polygon([*hedge, (1.0, view.horizon + 0.02)], (84, 104, 66))
    view.gradient(view.horizon, 1.0, [view.shade((176, 172, 104)), view.shade((126, 140, 72))])
    vanishing = view.dice.uniform(0.2, 0.8)
    soil = view.shade((102, 108, 58))
    for i in range(-16, 17):
        foot = vanishing + i * 0.17
        tip = vanishing + i * 0.022
        view.polygon([(tip, view.horizon), (foot, 1.0), (foot + 0.075, 1.0), (tip + 0.008, view.horizon)], soil)


def on_a_beach(view: View) -> None:
    _sky(view, (138, 188, 216), (234, 234, 220), view.dice.randint(0, 3))
    shore = view.horizon + 0.1
    view.gradient(view.horizon, shore, [view.shade((84, 148, 164)), view.shade((128, 184, 186))])
    view.gradient(shore, 1.0, [view.shade((232, 214, 170)), view.shade((212, 184, 132))])
    foam = [(i / 16, shore + view.dice.uniform(-0.012, 0.012)) for i in range(17)]
    view.line(foam, (246, 246, 240), 0.02)
    for _ in range(60):
        y = view.dice.uniform(shore + 0.04, 1.0)
        view.oval(view.dice.uniform(0.0, 1.0), y, 0.005, view.shade((186, 156, 110)), squeeze=0.6)
    for _ in range(view.dice.randint(1, 2)):
        _palm(view, view.dice.choice((view.dice.uniform(0.03, 0.16), view.dice.uniform(0.84, 0.97))))


def _palm(view: View, x: float) -> None:
    foot, top = view.horizon + 0.2, view.horizon - view.dice.uniform(0.3, 0.36)
    lean = view.dice.uniform(-0.05, 0.05)
    crown = (x + lean, top)
    view.line([(x, foot), (x + 0.3 * lean, (foot + top) / 2), crown], (116, 92, 64), 0.026)
    for dx, dy in ((-0.17, 0.05), (-0.14, 0.14), (-0.09, -0.05), (0.09, -0.05), (0.14, 0.14), (0.17, 0.05)):
        middle = (crown[0] + dx * 0.55, crown[1] + dy * 0.3 - 0.05)
        tip = (crown[0] + dx, crown[1] + dy)
        lower = (crown[0] + dx * 0.5, crown[1] + dy * 0.3)
        view.polygon([crown, middle, tip, lower], view.shade((66, 96, 58)))


def in_a_city_street(view: View) -> None:
    view.gradient(0.0, view.horizon, [view.shade((190, 198, 202)), view.shade((226, 224, 214))])
    foot = view.horizon + 0.08
    x = view.dice.uniform(-0.12, 0.0)
    while x < 1.0:
        width = view.dice.uniform(0.15, 0.26)
        top = view.dice.uniform(0.05, 0.6) * view.horizon
        wall = view.shade(view.dice.choice(((158, 140, 126), (144, 142, 142), (170, 158, 138), (128, 122, 122))), 8)
        view.polygon([(x, top), (x + width, top), (x + width, foot), (x, foot)], wall)
        view.polygon([(x, top), (x + width, top), (x + width, top + 0.02), (x, top + 0.02)], mix(wall, (0, 0, 0), 0.3))
        glass = mix(wall, view.dice.choice(((40, 44, 52), (246, 238, 208))), 0.65)
        columns = view.dice.randint(2, 3)
        pane = width / (2 * columns + 1)
        y = top + 0.05
        while y < foot - 0.06:
            for column in range(columns):
                left = x + pane * (2 * column + 1)
                view.polygon([(left, y), (left + pane, y), (left + pane, y + 0.05), (left, y + 0.05)], glass)
            y += 0.095
        x += width
    view.polygon([(0.0, foot), (1.0, foot), (1.0, foot + 0.05), (0.0, foot + 0.05)], (186, 180, 170))
    view.gradient(foot + 0.05, 1.0, [view.shade((112, 110, 110)), view.shade((88, 86, 88))])
    for i in range(6):
        left = i * 0.2 + 0.02
        y = foot + 0.05 + (0.95 - foot) * 0.62
        view.polygon([(left, y), (left + 0.11, y), (left + 0.1, y + 0.025), (left - 0.01, y + 0.025)], (214, 208, 194))


def in_the_mountains(view: View) -> None:
    _sky(view, (132, 166, 200), (226, 224, 226), view.dice.randint(0, 2))
    x = view.dice.uniform(-0.2, 0.05)
    while x < 1.1:
        half = view.dice.uniform(0.2, 0.3)
        peak = (x + half * view.dice.uniform(0.8, 1.2), view.horizon * view.dice.uniform(0.08, 0.36))
        rock = view.shade((124, 122, 134), 10)
        foot = view.horizon + 0.03
        left, right = (x - 0.05, foot), (x + 2 * half + 0.05, foot)
        view.polygon([left, peak, right], rock)
        view.polygon([peak, right, (peak[0] + half * 0.2, foot)], mix(rock, (0, 0, 0), 0.24))
        cap = 0.32
        snow = [_along(peak, left, cap), peak, _along(peak, right, cap)]
        for dx, dy in ((0.15, 0.26), (0.04, 0.38), (-0.1, 0.25)):
            snow.append((peak[0] + half * dx, peak[1] + (foot - peak[1]) * dy))
        view.polygon(snow, (240, 242, 244))
        x += half * view.dice.uniform(1.1, 1.5)
    view.gradient(view.horizon, 1.0, [view.shade((130, 134, 106)), view.shade((92, 92, 72))])
    for _ in range(26):
        y = view.dice.uniform(view.horizon + 0.04, 1.0)
        near = (y - view.horizon) / (1.0 - view.horizon)
        x, size = view.dice.uniform(0.0, 1.0), 0.012 + 0.03 * near
        stone = view.shade((132, 128, 118))
        view.oval(x, y, size, mix(stone, (0, 0, 0), 0.35), squeeze=0.55)
        view.oval(x - size * 0.15, y - size * 0.12, size * 0.85, stone, squeeze=0.5)


def _along(a: Point, b: Point, share: float) -> Point:
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share)


def in_the_snow(view: View) -> None:
    view.gradient(0.0, view.horizon, [view.shade((158, 172, 190)), view.shade((206, 212, 220))])
    for _ in range(view.dice.randint(7, 10)):
        _fir(view, view.dice.uniform(0.0, 1.0), view.dice.uniform(0.18, 0.3))
    view.gradient(view.horizon, 1.0, [view.shade((224, 230, 238), 6), view.shade((246, 248, 252), 4)])
    for _ in range(4):
        x, y = view.dice.uniform(0.0, 1.0), view.dice.uniform(view.horizon + 0.06, 0.98)
        view.oval(x, y, 0.26, (208, 218, 232), squeeze=0.1)
    for _ in range(90):
        view.oval(view.dice.uniform(0, 1), view.dice.uniform(0, 0.95), view.dice.uniform(0.005, 0.012), (252, 252, 254))


def _fir(view: View, x: float, height: float) -> None:
    foot = view.horizon + 0.015
    green = view.shade((58, 82, 76), 8)
    for tier in range(3):
        y = foot - height * (0.1 + 0.28 * tier)
        half, tall = height * 0.26 * (1.0 - 0.22 * tier), height * 0.42
        view.polygon([(x - half, y), (x, y - tall), (x + half, y)], green)
        laden = y - tall * 0.55
        view.polygon([(x - half * 0.45, laden), (x, y - tall), (x + half * 0.45, laden)], (236, 240, 244))


DRAWERS: dict[str, Callable[[View], None]] = {
    "at sea": at_sea,
    "in a field": in_a_field,
    "on a beach": on_a_beach,
    "in a city street": in_a_city_street,
    "in the mountains": in_the_mountains,
    "in the snow": in_the_snow,
}


def draw_raft(view: View, centre: Point, half: float) -> None:
    """What a thing that does not float stands upon at sea; pixels."""
    x, y = centre
    ink = ImageDraw.Draw(view.picture)
    far, near, under = y - half * 0.1, y + half * 0.1, y + half * 0.2
    deck = [(x - half * 0.92, far), (x + half * 0.92, far), (x + half * 1.08, near), (x - half * 1.08, near)]
    ink.polygon(deck, fill=(150, 118, 82))
    side = [deck[3], deck[2], (x + half * 1.04, under), (x - half * 1.04, under)]
    ink.polygon(side, fill=(92, 68, 46))
    ink.line([*deck, deck[0]], fill=(54, 42, 34), width=max(1, round(half * 0.02)))
