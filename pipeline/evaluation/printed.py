"""What `evaluate` and `compare` print for people, as Rich renderables."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.upkeep.inspection import count

WAYS = {"text_to_image": "text → image", "image_to_text": "image → text"}


def evaluated(said: Mapping[str, Any]) -> RenderableType:
    """`tintype evaluate` for people."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "", "R@1 %", "R@5 %", "R@10 %", "median rank"):
        table.add_column(column, justify="right" if "R@" in column or "rank" in column else "left", no_wrap=True)
    for model in said["models"]:
        for way, words in WAYS.items():
            found = model[way]
            cells = [share(found[f"recall@{depth}"]) for depth in (1, 5, 10)]
            table.add_row(model["of"], words, *cells, f"{found['median_rank']:g}")
    return Group(Text(f"{said['archive']}: {looked_at(said)}"), table, Text(notes(said), style="dim"))


def share(told: Mapping[str, float]) -> str:
    """ "41.2 (37.5–45.0)", in per cent."""
    return "{:.1f} ({:.1f}–{:.1f})".format(*(100 * told[key] for key in ("value", "low", "high")))


def looked_at(said: Mapping[str, Any]) -> str:
    """What was asked, and among what."""
    texts = said["texts"]
    what = "captions by people" if texts["kind"] == "captions" else "titles"
    return f"{count(said['photos'], 'photo')}; {texts['number']:,} {what} of {count(texts['of_photos'], 'photo')}"


def notes(said: Mapping[str, Any]) -> str:
    """What is to be known of the figures."""
    texts = said["texts"]
    lines = ["In brackets, 95 % confidence; a tie counts as not found"]
    if texts["shared"]:
        lines.append(f"{count(texts['shared'], 'text')} of several photos: each of these is a right answer")
    for why, number in texts["left_out"].items():
        lines.append(f"{count(number, 'title')} left out: {why}")
    return "\n".join(lines)
