"""The demo's world: scenes made of things, colours, places and media, and how each is said and drawn.

Everything is a function of a scene, and a random scene is a function of its seed. Seeds 0 … 99,999 belong to the demo
archive, 500,000 … 599,999 to evaluation, and those from 1,000,000 on to training, so that no picture shown was ever
trained on.
"""

import colorsys
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFilter

from pipeline.demo import draw_media, draw_places, draw_things
from pipeline.demo.draw_places import View
from pipeline.demo.draw_things import Rgb

OBJECTS: tuple[str, ...] = tuple(draw_things.DRAWERS)
PLACES: tuple[str, ...] = tuple(draw_places.DRAWERS)
MEDIA: tuple[str, ...] = tuple(draw_media.DRAWERS)
_SHARES = (8, 5, 4, 3)  # how often random scenes come in each medium: mostly in colours

_RGB: dict[str, Rgb] = {
    "red": (206, 38, 36),
    "orange": (240, 130, 24),
    "yellow": (246, 214, 44),
    "green": (44, 142, 66),
    "blue": (36, 84, 190),
    "purple": (132, 56, 160),
    "black": (46, 46, 50),
    "white": (244, 243, 240),
}
COLOURS: tuple[str, ...] = tuple(_RGB)

# A tenth of the 96 pairs. Each of these kinds and colours is trained in other pairs: what is tested is whether two
# known words are understood together.
NEVER_TRAINED: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "windmill"),
        ("orange", "cottage"),
        ("yellow", "umbrella"),
        ("green", "balloon"),
        ("blue", "steam train"),
        ("purple", "sailboat"),
        ("black", "tent"),
        ("white", "elephant"),
        ("blue", "automobile"),
        ("yellow", "lighthouse"),
    }
)


@dataclass(frozen=True)
class Thing:
    kind: str
    colour: str


@dataclass(frozen=True)
class Scene:
    seed: int
    things: tuple[Thing, ...]  # one, or two from left to right
    place: str
    medium: str


def random_scene(seed: int) -> Scene:
    """The scene of this seed. Stereographs, of narrow views, show one thing; a quarter of the others show two."""
    dice = random.Random(f"scene {seed}")
    (medium,) = dice.choices(MEDIA, _SHARES)
    place = dice.choice(PLACES)
    count = 2 if medium != "stereograph" and dice.random() < 0.27 else 1
    kinds = dice.sample(OBJECTS, count)
    return Scene(seed, tuple(Thing(kind, dice.choice(COLOURS)) for kind in kinds), place, medium)


def shows_colour(medium: str) -> bool:
    return medium in ("photograph", "poster")


def caption(scene: Scene) -> str:
    """What the picture shows, in full: `a sepia print of a sailboat and a windmill in a field`.

    No colour is named that cannot be seen. A photograph is not called one: that is what one expects.
    """
    names = [f"{t.colour} {t.kind}" if shows_colour(scene.medium) else t.kind for t in scene.things]
    said = " and ".join(map(with_article, names)) + f" {scene.place}"
    return said if scene.medium == "photograph" else f"{with_article(scene.medium)} of {said}"


def with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def proportions(scene: Scene) -> tuple[int, int]:
    """Width and height, as a ratio, of the picture that suits this scene: two things want room beside each other."""
    if scene.medium == "stereograph":
        return (2, 1)
    if len(scene.things) == 2:
        return random.Random(f"shape {scene.seed}").choice(((4, 3), (3, 2), (1, 1)))
    return random.Random(f"shape {scene.seed}").choice(((4, 3), (3, 2), (1, 1), (3, 4), (2, 3)))


def draw(scene: Scene, width: int, height: int) -> Image.Image:
    """Draw a scene as an RGB picture of width × height pixels.

    It is the same picture at every size (but for grain), and the same each time; another shape of picture shows the
    same things with more or less ground round them.
    """

    def paint(view_width: int, view_height: int, eye: float) -> Image.Image:
        return _paint(scene, view_width, view_height, eye)

    finish = draw_media.DRAWERS[scene.medium]
    return finish(paint, width, height, random.Random(f"medium {scene.seed}"))


def _paint(scene: Scene, width: int, height: int, eye: float) -> Image.Image:
    """The view itself, without its paper, drawn at twice the size for smooth edges."""
    dice = random.Random(f"view {scene.seed}")
    flat = scene.medium == "poster"
    big = Image.new("RGB", (2 * width, 2 * height))
    view = View(big, dice.uniform(0.46, 0.58), random.Random(dice.getrandbits(32)), flat)
    draw_places.DRAWERS[scene.place](view)
    if not flat:
        big = big.filter(ImageFilter.BoxBlur(0.003 * min(big.size)))
        view = View(big, view.horizon, view.dice, flat)
    for place, thing in enumerate(scene.things):
        _put(view, scene, place, thing, eye, random.Random(dice.getrandbits(32)))
    return big.reduce(2)


def _put(view: View, scene: Scene, place: int, thing: Thing, eye: float, dice: random.Random) -> None:
    """Draw one thing where it belongs: in the middle part of the picture or of its half, its foot on the ground."""
    width, height = view.picture.size
    slot = width / len(scene.things)
    radius = min(0.46 * slot, 0.41 * height) * dice.uniform(0.74, 1.0)
    spare = slot / 2 - 1.06 * radius
    x = slot * (place + 0.5) + max(0.0, spare) * dice.uniform(-1.0, 1.0) * 0.85 - 0.03 * eye * radius
    flying = thing.kind in draw_things.FLYING
    foot = height * (dice.uniform(0.76, 0.84) if flying else dice.uniform(0.87, 0.95))
    y = max(foot - radius, 1.06 * radius)
    angle = math.radians(dice.uniform(-4.0, 4.0))
    mirrored = dice.random() < 0.5
    colour = _shade(_RGB[thing.colour], dice)
    afloat = scene.place == "at sea" and not flying and thing.kind not in draw_things.FLOATING
    if afloat:
        draw_places.draw_raft(view, (x, y + 0.96 * radius), radius)
    elif not flying:
        _shadow(view, x, y + 0.98 * radius, radius, water=scene.place == "at sea")
    draw_things.draw_thing(view.picture, thing.kind, colour, (x, y), radius, angle, mirrored, shaded=not view.flat)


def _shadow(view: View, x: float, y: float, radius: float, water: bool) -> None:
    """A dark patch under a thing, soft but on a poster; on water the pale ripple of its wake."""
    rx, ry = round(1.1 * radius), max(1, round(0.13 * radius))
    mask = Image.new("L", (2 * rx, 4 * ry))
    ImageDraw.Draw(mask).ellipse((rx // 8, ry, 2 * rx - rx // 8, 3 * ry), fill=130)
    if not view.flat:
        mask = mask.filter(ImageFilter.BoxBlur(max(1, ry // 2)))
    view.picture.paste((214, 228, 230) if water else (40, 38, 44), (round(x) - rx, round(y) - 2 * ry), mask)


def _shade(rgb: Rgb, dice: random.Random) -> Rgb:
    """The colour as this thing wears it: a little other in hue, depth and brightness."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in rgb))
    hue = (hue + dice.uniform(-0.014, 0.014)) % 1.0
    saturation *= dice.uniform(0.85, 1.0)
    value *= dice.uniform(0.9, 1.0)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return (round(red * 255), round(green * 255), round(blue * 255))
