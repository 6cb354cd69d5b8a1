"""What `evaluate` and `compare` print for people, as Rich renderables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.columns import Columns
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
    if said["without_vectors"]:
        lines.append(f"{count(said['without_vectors'], 'photo')} left out: no vector of every model")
    for why, number in texts["left_out"].items():
        lines.append(f"{count(number, 'title')} left out: {why}")
    return "\n".join(lines)


def compared(said: Mapping[str, Any]) -> RenderableType:
    """`tintype compare` for people."""
    names = [f"  {number}  {name}" for number, name in enumerate(said["pictures"], 1)]
    matrices = [_matrix(model, said["texts"]) for model in said["models"]]
    shown: list[RenderableType] = [Text("\n".join(["pictures:", *names, ""])), Columns(matrices, padding=(0, 4))]
    return Group(*shown, *([Text(""), evaluated(said["recall"])] if said["recall"] else []))


def _matrix(model: Mapping[str, Any], texts: Sequence[str]) -> RenderableType:
    """One model's cosines, a text a row, its own picture's in bold."""
    table = Table(box=None, pad_edge=False, title=named_as(model), title_justify="left", title_style="bold")
    table.add_column(no_wrap=True, max_width=32, overflow="ellipsis")
    for number in range(1, len(model["cosines"][0]) + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
    for row, (text, cosines) in enumerate(zip(texts, model["cosines"], strict=True)):
        own = row if model["diagonal"] else None
        cells = [Text(f"{value:z.2f}", style="bold" if column == own else "") for column, value in enumerate(cosines)]
        table.add_row(Text(text), *cells)
    return Group(table, Text(told_of(model), style="dim"), Text(""))


def named_as(model: Mapping[str, Any]) -> str:
    """What a model is called, and which it is."""
    return model["of"] if model["of"].replace("/", " / ", 1) == model["model"] else f"{model['of']} ({model['model']})"


def told_of(model: Mapping[str, Any]) -> str:
    """What a matrix's diagonal comes to."""
    found = model["diagonal"]
    if found is None:
        return "not as many texts as pictures, or a single pair: there is no diagonal"
    return (
        f"own pictures {found['mean']:.3f}, others {found['others_mean']:.3f}; "
        f"margin {found['margin_mean']:.3f}, least {found['margin_least']:.3f}"
    )
