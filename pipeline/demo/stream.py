"""What the demo photostream holds: photos of scenes, what Flickr would say of them, and the troubles of real streams.

The institution is invented. Everything is a function of the number of photos asked for, the same each time.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import count
from typing import Any, Literal

from pipeline.demo.scenes import COLOURS, OBJECTS, Scene, caption, random_scene, shows_colour, with_article

Trouble = Literal[
    "video_with_still",
    "video_without_still",
    "no_size",  # no rendition is offered at all
    "gone_404",  # deleted since it was listed
    "gone_410",
    "html",  # a web page is served as its picture
    "truncated",  # its picture always ends too early
    "corrupt",  # its picture begins like a JPEG and goes on as noise
    "new_secret",  # the listed addresses answer 404; photos.getSizes knows the new ones
]

# How each trouble must end: the outcome in the images table, and the reason of a failure.
ENDS: dict[Trouble, tuple[str, str | None]] = {
    "video_with_still": ("fetched", None),
    "video_without_still": ("failed", "video"),
    "no_size": ("failed", "no_size"),
    "gone_404": ("gone", None),
    "gone_410": ("gone", None),
    "html": ("failed", "not_an_image"),
    "truncated": ("failed", "truncated"),
    "corrupt": ("failed", "corrupt"),
    "new_secret": ("fetched", None),
}

TROUBLES: tuple[Trouble, ...] = (
    *("video_with_still",) * 3,
    *("video_without_still",) * 2,
    *("no_size",) * 2,
    *("gone_404",) * 3,
    *("gone_410",) * 2,
    "html",
    "truncated",
    "corrupt",
    *("new_secret",) * 2,
)
DUPLICATES = 4  # photos uploaded a second time, under another id
OF_EACH_PAIR = 5  # photos at least that show each colour on each object, none of them in trouble

NSID = "00000001@N00"
ALIAS = "tintype_demo"
OWNER = "Tintype Demo Archive"
FIRST_ID = 53_000_000_000
FIRST_UPLOAD = 1_230_768_000  # 2009-01-01, Unix seconds
LONGEST = 900_000_000  # seconds that all uploads may take, twice what they do: none is in the future

# Mostly the Flickr Commons' own, as institutions have it.
_LICENCES = ("7",) * 14 + ("4", "5", "9", "11")
_YEARS = {"stereograph": (1861, 1905), "sepia print": (1865, 1921), "poster": (1892, 1941), "photograph": (1936, 1975)}
_SHAPES = ((4, 3), (4, 3), (3, 2), (5, 4), (1, 1), (3, 4), (4, 5))
_LONG_EDGES = (2400, 1800, 1600, 1536, 1280, 1200, 1024)
_SMALL_EDGES = (300, 450, 620)  # of old scans, for which Flickr has no large renditions


@dataclass(frozen=True)
class DemoPhoto:
    """A photo as uploaded. Times are Unix seconds; width and height are the original's pixels."""

    number: int  # Flickr's id
    scene: Scene
    title: str
    description: str  # HTML
    tags: tuple[str, ...]
    machine_tags: tuple[str, ...]
    license: str
    uploaded: int
    updated: int
    taken: str  # "1910-01-01 00:00:00"
    granularity: int  # Flickr's: 0 second, 4 month, 6 year, 8 circa
    width: int
    height: int
    secret: str
    original_secret: str
    server: str
    views: int
    place: tuple[float, float] | None = None  # latitude, longitude
    taken_known: bool = True
    original_offered: bool = True
    trouble: Trouble | None = None

    @property
    def is_video(self) -> bool:
        return self.trouble in ("video_with_still", "video_without_still")


@dataclass(frozen=True)
class Album:
    number: int
    title: str
    description: str
    photos: tuple[int, ...]  # their ids, in the album's order


@dataclass(frozen=True)
class Gallery:
    number: int
    title: str
    photos: tuple[int, ...]  # their ids, in the gallery's order


@dataclass(frozen=True)
class Group:
    nsid: str
    alias: str
    title: str
    photos: tuple[int, ...]  # their ids, the last added first


@dataclass(frozen=True)
class Stream:
    photos: tuple[DemoPhoto, ...]  # newest first, as Flickr lists them
    album: Album
    gallery: Gallery
    group: Group

    @cached_property
    def by_number(self) -> dict[int, DemoPhoto]:
        return {photo.number: photo for photo in self.photos}


def demo_stream(photos: int = 720) -> Stream:
    """The demo's photostream. With 720 photos, every colour is seen on every object in OF_EACH_PAIR of them or more.

    ValueError for fewer photos than a few of each trouble need.
    """
    if photos < 4 * len(TROUBLES):
        raise ValueError(f"{photos} photos are too few for {len(TROUBLES)} troubles")
    dice = random.Random("demo stream")
    plain = photos - len(TROUBLES) - DUPLICATES
    seeds = count()
    scenes: list[tuple[Scene, Trouble | None]] = [(scene, None) for scene in _choose(seeds, plain)]
    scenes += [(random_scene(next(seeds)), trouble) for trouble in TROUBLES]
    dice.shuffle(scenes)
    scenes += [(scene, None) for scene, trouble in dice.sample(scenes, 3 * DUPLICATES) if trouble is None][:DUPLICATES]
    uploaded = FIRST_UPLOAD
    made = []
    for position, (scene, trouble) in enumerate(scenes):
        uploaded += dice.randint(600, min(500_000, LONGEST // photos))
        made.append(_photo(position, scene, trouble, uploaded))
    trains = _showing(made, "steam train")
    album = Album(72_177_720_300_000_001, "Steam trains", "Locomotives of the collection, in all colours.", trains)
    gallery = Gallery(72_157_720_300_000_002, "Windmills of the world", _showing(made, "windmill"))
    group = Group("00000002@N00", "demo_sailors", "Demo sailors", _showing(made, "sailboat")[::-1])
    return Stream(tuple(_oddities(made)[::-1]), album, gallery, group)


def _showing(photos: list[DemoPhoto], kind: str) -> tuple[int, ...]:
    return tuple(photo.number for photo in photos if any(thing.kind == kind for thing in photo.scene.things))


def _choose(seeds: Iterator[int], number: int) -> list[Scene]:
    """So many scenes: first those that show a pair of colour and object not yet seen often enough, then any."""
    missing = {(colour, kind): OF_EACH_PAIR for colour in COLOURS for kind in OBJECTS}
    chosen: list[Scene] = []
    spare: list[Scene] = []
    while any(missing.values()) and len(chosen) < number:
        scene = random_scene(next(seeds))
        pairs = {(thing.colour, thing.kind) for thing in scene.things} if shows_colour(scene.medium) else set()
        wanted = [pair for pair in pairs if missing[pair]]
        for pair in wanted:
            missing[pair] -= 1
        (chosen if wanted else spare).append(scene)
    # The rest mostly shows no colours, as old collections do.
    spare.sort(key=lambda scene: shows_colour(scene.medium))
    chosen += spare[: number - len(chosen)]
    return chosen + [random_scene(next(seeds)) for _ in range(number - len(chosen))]


def _photo(position: int, scene: Scene, trouble: Trouble | None, uploaded: int) -> DemoPhoto:
    dice = random.Random(f"photo {position}")
    width, height = _shape(scene)
    year = dice.randint(*_YEARS[scene.medium])
    taken, granularity = _taken(year, dice)
    call_number = f"TDA-{scene.medium[:2].upper()}{year}-{position:04d}"
    return DemoPhoto(
        number=FIRST_ID + 13 * position,
        scene=scene,
        title=_title(scene, dice),
        description=_description(scene, call_number),
        tags=_tags(scene, year),
        machine_tags=(f"dc:identifier=https://archive.example/{call_number.lower()}",),
        license=dice.choice(_LICENCES),
        uploaded=uploaded,
        updated=uploaded + dice.randint(60, 90_000_000),
        taken=taken,
        granularity=granularity,
        width=width,
        height=height,
        secret=f"{dice.getrandbits(40):010x}",
        original_secret=f"{dice.getrandbits(40):010x}",
        server="65535",
        views=int(dice.paretovariate(0.8)),
        place=(round(dice.uniform(-60, 70), 6), round(dice.uniform(-180, 180), 6)) if dice.random() < 0.1 else None,
        original_offered=dice.random() < 0.8,
        trouble=trouble,
    )


def _shape(scene: Scene) -> tuple[int, int]:
    """Width and height of the original, the same when it is uploaded again."""
    dice = random.Random(f"shape {scene.seed}")
    long_edge = dice.choice(_LONG_EDGES if dice.random() < 0.95 else _SMALL_EDGES)
    across, down = (2, 1) if scene.medium == "stereograph" else dice.choice(_SHAPES)
    longer = max(across, down)
    return round(long_edge * across / longer), round(long_edge * down / longer)


def _taken(year: int, dice: random.Random) -> tuple[str, int]:
    """Date taken as Flickr gives it, filled with firsts and zeros up to what the granularity says is known."""
    granularity = dice.choice((0, 4, 6, 6, 8, 8, 8))
    month = dice.randint(1, 12) if granularity < 6 else 1
    if granularity:
        return f"{year}-{month:02d}-01 00:00:00", granularity
    return str(datetime(year, month, dice.randint(1, 28), dice.randint(6, 20), dice.randint(0, 59))), granularity


def things_named(scene: Scene) -> list[str]:
    """What the scene's things are called, with their colours where those can be seen."""
    colours = shows_colour(scene.medium)
    return [f"{thing.colour} {thing.kind}" if colours else thing.kind for thing in scene.things]


def _title(scene: Scene, dice: random.Random) -> str:
    names = things_named(scene)
    plain = f"{' and '.join(names)} {scene.place}"
    articled = f"{' and '.join(map(with_article, names))} {scene.place}"
    return dice.choice(
        (
            f"{_capital(plain)} (TDA)",
            f"{_capital(plain)} (TDA)",
            f"[{_capital(articled)}] (TDA)",
            f"View of {articled}",
            f"{_capital(plain)}. {scene.medium.capitalize()} (TDA)",
        )
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _description(scene: Scene, call_number: str) -> str:
    """HTML as libraries write it on Flickr."""
    return (
        f"{_capital(caption(scene))}. Drawn by code for the demo; no camera was there.\n\n"
        f"Medium: 1 {scene.medium}.\n\n<b>Rights Info:</b> See the licence of each picture.\n\n"
        f"<b>Call Number:</b> {call_number}\n\n"
        f'<b>Persistent URL:</b> <a href="https://archive.example/{call_number.lower()}" rel="noreferrer nofollow">'
        f"archive.example/{call_number.lower()}</a>"
    )


def _tags(scene: Scene, year: int) -> tuple[str, ...]:
    """Tags as Flickr normalises them: small letters without spaces."""
    words = [*things_named(scene), scene.place, scene.medium, f"{year // 10 * 10}s", OWNER]
    return tuple(word.lower().replace(" ", "") for word in words)


def _oddities(photos: list[DemoPhoto]) -> list[DemoPhoto]:
    """The same photos, some of those that show no colours with what real streams hold too."""
    changes: tuple[dict[str, Any], ...] = (
        {"title": ""},
        {"taken": "0000-01-01 00:00:00", "granularity": 8},
        {"taken_known": False},
        {"license": "0"},
        {"license": "42"},  # newer than any table of licences
        {"title": "Fotografía n.º 12 — «sin título» <i>&amp; más</i> 🎞"},
    )
    colourless = [i for i, photo in enumerate(photos) if not (photo.trouble or shows_colour(photo.scene.medium))]
    odd = list(photos)
    for i, change in zip(colourless, changes, strict=False):
        odd[i] = replace(odd[i], **change)
    return odd
