"""The things in the demo's scenes: one drawing function for each kind.

A thing is drawn inside the square -1 … 1 (x to the right, y downwards, its foot at y = 1) with a `Pen`, which turns,
mirrors and scales it onto the picture. `BODY`, `DARK` and `LIGHT` are shades of the thing's own colour; all else
keeps to inks, woods and greys, so that a thing's colour is the colour of most of it.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]

BODY, DARK, LIGHT = "body", "dark", "light"
INK: Rgb = (38, 34, 36)
STEEL: Rgb = (128, 130, 134)
WOOD: Rgb = (122, 88, 58)
PALE: Rgb = (232, 226, 208)
GLASS: Rgb = (196, 212, 214)
SMOKE: Rgb = (222, 220, 216)
STONE: Rgb = (120, 114, 108)

_OUTLINE = 0.022


@dataclass(frozen=True)
class Pen:
    """Draws shapes given in a thing's own coordinates onto a picture's pixels."""

    canvas: ImageDraw.ImageDraw
    centre: Point
    radius: float  # pixels that one unit takes
    angle: float  # radians, clockwise
    mirrored: bool
    shades: dict[str, Rgb]

    def place(self, points: Sequence[Point]) -> list[Point]:
        """The pixels at which these points lie."""
        sine, cosine = math.sin(self.angle), math.cos(self.angle)
        placed = []
        for x, y in points:
            x = -x if self.mirrored else x
            placed.append(
                (
                    self.centre[0] + self.radius * (x * cosine - y * sine),
                    self.centre[1] + self.radius * (x * sine + y * cosine),
                )
            )
        return placed

    def polygon(self, points: Sequence[Point], paint: str | Rgb, outline: float = _OUTLINE) -> None:
        fill = self.shades[paint] if isinstance(paint, str) else paint
        placed = self.place(points)
        self.canvas.polygon(placed, fill=fill)
        if outline:
            self.canvas.line([*placed, placed[0], placed[1]], fill=INK, width=self._width(outline), joint="curve")

    def box(self, left: float, top: float, right: float, bottom: float, paint: str | Rgb) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], paint)

    def oval(self, x: float, y: float, rx: float, ry: float, paint: str | Rgb, outline: float = _OUTLINE) -> None:
        self.polygon(arc(x, y, rx, ry, 0, 360), paint, outline)

    def line(self, points: Sequence[Point], width: float, paint: str | Rgb = INK) -> None:
        fill = self.shades[paint] if isinstance(paint, str) else paint
        self.canvas.line(self.place(points), fill=fill, width=self._width(width), joint="curve")

    def ring(self, x: float, y: float, radius: float, width: float, paint: str | Rgb) -> None:
        circle = arc(x, y, radius, radius, 0, 360)
        self.line([*circle, circle[0], circle[1]], width, paint)

    def _width(self, width: float) -> int:
        return max(1, round(width * self.radius))


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> list[Point]:
    """Points along an ellipse between two angles in degrees, clockwise from the right."""
    steps = max(6, round(abs(end - start) / 9))
    angles = (math.radians(start + (end - start) * i / steps) for i in range(steps + 1))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def sailboat(pen: Pen) -> None:
    pen.line([(0.03, -0.98), (0.03, 0.6)], 0.06, WOOD)
    pen.polygon([(0.08, -0.92), (0.3, -0.3), (0.86, 0.42), (0.08, 0.42)], BODY)
    pen.polygon([(-0.02, -0.78), (-0.3, -0.1), (-0.74, 0.42), (-0.02, 0.42)], LIGHT)
    pen.line([(0.08, -0.1), (0.44, -0.1)], 0.02, DARK)
    pen.line([(0.08, 0.2), (0.68, 0.2)], 0.02, DARK)
    pen.polygon([(-0.85, 0.52), (0.95, 0.52), (0.86, 0.72), (0.66, 0.95), (-0.5, 0.95), (-0.72, 0.75)], BODY)
    pen.polygon([(-0.72, 0.75), (0.84, 0.75), (0.66, 0.95), (-0.5, 0.95)], DARK)


def steam_train(pen: Pen) -> None:
    for x, y, r in ((-0.5, -0.86, 0.14), (-0.15, -0.84, 0.17), (0.2, -0.78, 0.15), (0.48, -0.66, 0.11)):
        pen.oval(x, y, r, r * 0.8, SMOKE, outline=0.0)
    pen.polygon([(0.46, -0.5), (0.78, -0.5), (0.7, -0.36), (0.7, 0.0), (0.54, 0.0), (0.54, -0.36)], INK)
    pen.polygon([*arc(0.12, 0.0, 0.13, 0.2, 180, 360)], DARK)
    pen.polygon([(-0.4, 0.5), (-0.4, -0.06), *arc(0.74, 0.22, 0.16, 0.28, -90, 90), (-0.4, 0.5)], BODY)
    pen.line([(0.36, -0.05), (0.36, 0.5)], 0.05, DARK)
    pen.line([(0.0, -0.05), (0.0, 0.5)], 0.05, DARK)
    pen.box(-0.92, -0.42, -0.36, 0.55, BODY)
    pen.box(-0.8, -0.28, -0.5, 0.06, GLASS)
    pen.polygon([(-1.0, -0.56), (-0.28, -0.56), (-0.32, -0.42), (-0.96, -0.42)], DARK)
    pen.box(-0.95, 0.5, 0.88, 0.64, INK)
    pen.polygon([(0.8, 0.6), (1.0, 0.95), (0.68, 0.95)], STEEL)
    for x, r in ((-0.68, 0.27), (-0.1, 0.27), (0.44, 0.2)):
        pen.oval(x, 0.97 - r, r, r, INK)
        pen.ring(x, 0.97 - r, r * 0.66, 0.05, BODY)
        pen.oval(x, 0.97 - r, r * 0.2, r * 0.2, STEEL, outline=0.0)
    pen.line([(-0.68, 0.74), (0.44, 0.78)], 0.06, STEEL)


def lighthouse(pen: Pen) -> None:
    pen.polygon([(-0.8, 1.0), (-0.56, 0.8), (-0.2, 0.74), (0.3, 0.76), (0.62, 0.84), (0.8, 1.0)], STONE)

    def half_width(y: float) -> float:
        return 0.42 - 0.2 * (0.85 - y) / 1.35

    edges = [0.85, 0.58, 0.31, 0.04, -0.23, -0.5]
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        a, b = half_width(low), half_width(high)
        pen.polygon([(-a, low), (a, low), (b, high), (-b, high)], BODY if i % 2 == 0 else LIGHT)
    pen.box(-0.09, 0.62, 0.09, 0.85, INK)
    pen.box(-0.06, 0.12, 0.06, 0.26, INK)
    pen.box(-0.34, -0.56, 0.34, -0.47, INK)
    pen.box(-0.2, -0.8, 0.2, -0.56, GLASS)
    pen.line([(0.0, -0.8), (0.0, -0.56)], 0.03)
    pen.polygon([(-0.26, -0.78), *arc(0.0, -0.78, 0.26, 0.2, 180, 360)], DARK)


def windmill(pen: Pen) -> None:
    pen.polygon([(-0.52, 1.0), (0.52, 1.0), (0.3, -0.18), (-0.3, -0.18)], BODY)
    pen.polygon([(0.52, 1.0), (0.3, -0.18), (0.12, -0.18), (0.22, 1.0)], DARK, outline=0.0)
    pen.polygon([(-0.34, -0.15), *arc(0.0, -0.15, 0.34, 0.34, 180, 360)], DARK)
    pen.polygon([(-0.14, 1.0), (-0.14, 0.72), *arc(0.0, 0.72, 0.14, 0.14, 180, 360), (0.14, 1.0)], INK)
    pen.box(-0.1, 0.2, 0.1, 0.4, GLASS)
    hub = (0.0, -0.26)

    def at(turn: float, along: float, across: float) -> Point:
        x, y = math.cos(turn), math.sin(turn)
        return (hub[0] + along * x - across * y, hub[1] + along * y + across * x)

    for quarter in range(4):
        turn = math.radians(28 + 90 * quarter)
        pen.polygon([at(turn, 0.16, 0.0), at(turn, 0.76, 0.0), at(turn, 0.76, 0.2), at(turn, 0.16, 0.17)], PALE)
        for rung in (0.32, 0.47, 0.62):
            pen.line([at(turn, rung, 0.0), at(turn, rung, 0.19)], 0.018)
        pen.line([hub, at(turn, 0.8, 0.0)], 0.045, WOOD)
    pen.oval(*hub, 0.08, 0.08, INK, outline=0.0)


def bicycle(pen: Pen) -> None:
    back, front, crank, seat, head = (-0.54, 0.5), (0.54, 0.5), (-0.08, 0.52), (-0.24, -0.12), (0.36, -0.14)
    for x, y in (back, front):
        pen.ring(x, y, 0.43, 0.15, INK)
        pen.ring(x, y, 0.41, 0.1, BODY)
        for spoke in range(6):
            turn = math.radians(30 * spoke + 10)
            dx, dy = 0.36 * math.cos(turn), 0.36 * math.sin(turn)
            pen.line([(x - dx, y - dy), (x + dx, y + dy)], 0.014, STEEL)
    for width, paint in ((0.15, INK), (0.115, BODY)):
        pen.line([back, crank, seat, back], width, paint)
        pen.line([crank, head, seat], width, paint)
        pen.line([front, head, (0.32, -0.34)], width, paint)
    pen.line([seat, (-0.28, -0.3)], 0.06, STEEL)
    pen.polygon([(-0.5, -0.42), (-0.06, -0.38), (-0.12, -0.3), (-0.28, -0.27), (-0.48, -0.3)], INK)
    pen.line([(0.32, -0.34), (0.3, -0.48), (0.62, -0.46), (0.66, -0.34)], 0.07, INK)
    pen.oval(*crank, 0.11, 0.11, STEEL)


def balloon(pen: Pen) -> None:
    skirt = [(0.2, 0.5), (-0.2, 0.5)]
    pen.polygon([*arc(0.0, -0.26, 0.72, 0.7, 150, 390), *skirt], BODY)
    pen.polygon([*arc(0.0, -0.26, 0.46, 0.7, 150, 390), (0.12, 0.5), (-0.12, 0.5)], LIGHT, outline=0.012)
    pen.polygon([*arc(0.0, -0.26, 0.18, 0.7, 150, 390), (0.05, 0.5), (-0.05, 0.5)], BODY, outline=0.012)
    pen.polygon([(-0.2, 0.5), (0.2, 0.5), (0.16, 0.58), (-0.16, 0.58)], DARK)
    pen.line([(-0.16, 0.56), (-0.15, 0.8)], 0.02)
    pen.line([(0.16, 0.56), (0.15, 0.8)], 0.02)
    pen.polygon([(-0.19, 0.76), (0.19, 0.76), (0.15, 1.0), (-0.15, 1.0)], WOOD)
    pen.line([(-0.17, 0.87), (0.17, 0.87)], 0.02)


def cottage(pen: Pen) -> None:
    for x, y, r in ((0.52, -0.9, 0.09), (0.64, -0.98, 0.08)):
        pen.oval(x, y, r, r * 0.8, SMOKE, outline=0.0)
    pen.box(0.38, -0.8, 0.58, -0.3, STONE)
    pen.box(-0.76, -0.1, 0.76, 1.0, BODY)
    pen.polygon([(-1.0, 0.02), (-0.5, -0.66), (0.5, -0.66), (1.0, 0.02)], DARK)
    for y in (-0.48, -0.31, -0.14):
        reach = 1.0 - 0.735 * (0.02 - y)
        pen.line([(-reach, y), (reach, y)], 0.014)
    pen.box(-0.14, 0.42, 0.18, 1.0, WOOD)
    for left in (-0.62, 0.32):
        pen.box(left, 0.22, left + 0.32, 0.58, GLASS)
        pen.line([(left + 0.16, 0.22), (left + 0.16, 0.58)], 0.025)
        pen.line([(left, 0.4), (left + 0.32, 0.4)], 0.025)


def automobile(pen: Pen) -> None:
    pen.polygon([(-0.52, 0.16), (-0.44, -0.44), (0.2, -0.44), (0.36, 0.16)], BODY)
    pen.polygon([(-0.4, 0.1), (-0.35, -0.3), (-0.12, -0.3), (-0.12, 0.1)], GLASS)
    pen.polygon([(-0.02, 0.1), (-0.02, -0.3), (0.12, -0.3), (0.24, 0.1)], GLASS)
    pen.polygon([(-0.56, -0.56), (0.26, -0.56), (0.28, -0.42), (-0.54, -0.42)], DARK)
    pen.polygon([(-0.94, 0.2), (-0.8, 0.12), (0.78, 0.12), (0.92, 0.22), (0.94, 0.68), (-0.96, 0.68)], BODY)
    pen.line([(-0.12, 0.14), (-0.12, 0.6)], 0.02, DARK)
    pen.line([(0.4, 0.14), (0.4, 0.5)], 0.02, DARK)
    pen.box(-0.98, 0.62, 0.98, 0.72, DARK)
    for x in (-0.56, 0.58):
        pen.polygon([*arc(x, 0.7, 0.36, 0.34, 180, 360)], DARK)
        pen.oval(x, 0.71, 0.28, 0.28, INK)
        pen.oval(x, 0.71, 0.15, 0.15, PALE)
        pen.oval(x, 0.71, 0.05, 0.05, INK, outline=0.0)
    pen.oval(0.9, 0.28, 0.09, 0.11, PALE)


def umbrella(pen: Pen) -> None:
    pen.line([(0.0, -0.85), (0.0, 0.78), *arc(0.16, 0.78, 0.16, 0.18, 180, 0)], 0.1, INK)
    pen.line([(0.0, -0.8), (0.0, 0.78), *arc(0.16, 0.78, 0.16, 0.18, 180, 0)], 0.06, WOOD)
    ribs = [-0.98, -0.6, -0.21, 0.21, 0.6, 0.98]
    scallops: list[Point] = []
    for left, right in itertools.pairwise(ribs):
        scallops += arc((left + right) / 2, 0.16, (right - left) / 2, 0.13, 180, 360)
    pen.polygon([*arc(0.0, 0.16, 0.98, 0.94, 0, -180), *scallops], BODY)
    for left, right, paint in ((-0.6, -0.21, DARK), (0.21, 0.6, DARK), (-0.21, 0.21, LIGHT)):
        hem = arc((left + right) / 2, 0.16, (right - left) / 2, 0.13, 0, -180)
        pen.polygon([(0.0, -0.78), (right, 0.16), *hem], paint)
    pen.line([(0.0, -0.95), (0.0, -0.76)], 0.05)


def biplane(pen: Pen) -> None:
    for x in (-0.72, -0.36, 0.36, 0.72):
        pen.line([(x, -0.45), (x, 0.25)], 0.035, WOOD)
    pen.line([(-0.72, -0.4), (-0.36, 0.2)], 0.015)
    pen.line([(0.72, -0.4), (0.36, 0.2)], 0.015)
    pen.polygon([(-0.96, 0.2), (0.96, 0.2), (0.9, 0.4), (-0.9, 0.4)], DARK)
    pen.line([(-0.16, 0.4), (-0.28, 0.8)], 0.05)
    pen.line([(0.16, 0.4), (0.28, 0.8)], 0.05)
    pen.line([(-0.3, 0.8), (0.3, 0.8)], 0.04)
    for x in (-0.3, 0.3):
        pen.oval(x, 0.82, 0.09, 0.16, INK)
    pen.oval(0.0, 0.06, 0.32, 0.36, BODY)
    pen.oval(0.0, 0.06, 0.2, 0.22, LIGHT, outline=0.014)
    pen.polygon([(-1.0, -0.58), (1.0, -0.58), (0.95, -0.34), (-0.95, -0.34)], BODY)
    pen.polygon([(-0.05, 0.06), (-0.11, -0.2), (0.0, -0.62), (0.05, 0.06), (0.11, 0.34), (0.0, 0.74)], WOOD)
    pen.oval(0.0, 0.06, 0.07, 0.07, STEEL)


def elephant(pen: Pen) -> None:
    pen.line([(-0.8, -0.1), (-0.96, 0.2), (-0.92, 0.45)], 0.06, INK)
    for x in (-0.46, 0.3):
        pen.box(x - 0.14, 0.3, x + 0.14, 1.0, DARK)
    pen.oval(-0.16, 0.04, 0.68, 0.52, BODY)
    for x in (-0.64, 0.08):
        pen.polygon([(x - 0.15, 0.2), (x + 0.17, 0.2), (x + 0.16, 1.0), (x - 0.16, 1.0)], BODY)
        pen.line([(x - 0.1, 0.94), (x + 0.1, 0.94)], 0.04, PALE)
    pen.polygon([(-0.62, 0.05), (-0.62, 0.2), (0.05, 0.2), (0.05, 0.05)], BODY, outline=0.0)
    trunk = [(0.7, -0.2), (0.84, 0.1), (0.82, 0.45), (0.88, 0.68), (0.99, 0.66)]
    pen.line(trunk, 0.25, INK)
    pen.line(trunk, 0.2, BODY)
    pen.oval(0.56, -0.22, 0.34, 0.38, BODY)
    pen.polygon([(0.66, 0.1), (0.74, 0.16), (0.98, 0.28), (0.72, 0.28)], PALE)
    pen.polygon(arc(0.32, -0.2, 0.27, 0.42, 0, 360), DARK)
    pen.oval(0.72, -0.28, 0.05, 0.05, INK, outline=0.0)


def tent(pen: Pen) -> None:
    pen.line([(0.0, -0.98), (0.0, -0.6)], 0.04, WOOD)
    pen.polygon([(0.02, -0.97), (0.36, -0.86), (0.02, -0.74)], BODY)
    foot, top = 0.98, (0.0, -0.66)
    edges = [-1.0, -0.6, -0.24, 0.24, 0.6, 1.0]
    for i, (left, right) in enumerate(itertools.pairwise(edges)):
        stripe = [top, (right * 0.62, 0.18), (right, foot), (left, foot), (left * 0.62, 0.18)]
        pen.polygon(stripe, BODY if i % 2 == 0 else LIGHT)
    pen.polygon([(0.0, 0.1), (0.26, foot), (-0.26, foot)], INK)
    pen.polygon([(0.0, 0.1), (-0.12, foot), (-0.3, foot)], DARK)


DRAWERS: dict[str, Callable[[Pen], None]] = {
    "sailboat": sailboat,
    "steam train": steam_train,
    "lighthouse": lighthouse,
    "windmill": windmill,
    "bicycle": bicycle,
    "balloon": balloon,
    "cottage": cottage,
    "automobile": automobile,
    "umbrella": umbrella,
    "biplane": biplane,
    "elephant": elephant,
    "tent": tent,
}
FLYING = frozenset({"balloon", "biplane"})
FLOATING = frozenset({"sailboat"})


def draw_thing(
    picture: Image.Image, kind: str, rgb: Rgb, centre: Point, radius: float, angle: float, mirrored: bool, shaded: bool
) -> None:
    """Draw one thing onto an RGB picture; shaded things are lit from the upper left.

    Args:
        picture: RGB, drawn upon in place.
        kind: one of `DRAWERS`.
        rgb: the thing's colour.
        centre: where the middle of the thing's square lies, in pixels.
        radius: half the side of that square, in pixels.
        angle: radians, clockwise.
        mirrored: left and right exchanged.
        shaded: False for flat colours.
    """
    side = math.ceil(2.9 * radius)
    corner = (round(centre[0] - side / 2), round(centre[1] - side / 2))
    layer = Image.new("RGBA", (side, side))
    shades = {BODY: rgb, DARK: _mix(rgb, (0, 0, 0), 0.24), LIGHT: _mix(rgb, (255, 255, 255), 0.24)}
    within = (centre[0] - corner[0], centre[1] - corner[1])
    DRAWERS[kind](Pen(ImageDraw.Draw(layer), within, radius, angle, mirrored, shades))
    colours = layer.convert("RGB")
    if shaded:
        light = Image.linear_gradient("L").rotate(45).resize((side, side), Image.Resampling.BILINEAR)
        colours = Image.blend(colours, Image.composite(Image.new("RGB", (side, side)), colours, light), 0.26)
    picture.paste(colours, corner, layer.getchannel("A"))


def _mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )
