"""What `evaluate` and `compare` print for people, as Rich renderables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.evaluation.recall import DEPTHS
from pipeline.evaluation.retrieval import counted
from pipeline.upkeep.inspection import count

WIDEST = 20  # pictures of a matrix in a terminal
WAYS = {"text_to_image": "text → image", "image_to_text": "image → text"}


def evaluated(said: Mapping[str, Any]) -> RenderableType:
    """`tintype evaluate` for people."""
    head = Text(f"{said['archive']}: {looked_at(said)}")
    return Group(head, *map(_found, said["models"]), Text(notes(said), style="dim"))


def _found(model: Mapping[str, Any]) -> RenderableType:
    """What one model finds: a row each way, in columns as wide as another model's."""
    table = Table(box=None, pad_edge=False)
    for column, width in {"": 14, "R@1 %": 16, "R@5 %": 16, "R@10 %": 16, "median": 7}.items():
        table.add_column(column, justify="right" if column else "left", min_width=width, no_wrap=True)
    for way, words in WAYS.items():
        cells = [share(model[way][f"recall@{depth}"]) for depth in DEPTHS]
        table.add_row(f"  {words}", *cells, f"{model[way]['median_rank']:g}")
    return Group(Text(named_as(model), style="bold"), table)


def share(told: Mapping[str, float]) -> str:
    """ "41.2 (37.5–45.0)", in per cent."""
    value, low, high = (f"{100 * told[key]:.1f}".replace("100.0", "100") for key in ("value", "low", "high"))
    return f"{value} ({low}–{high})"


def looked_at(said: Mapping[str, Any]) -> str:
    """What was asked, and among what."""
    texts = said["texts"]
    what = "captions by people" if texts["kind"] == "captions" else "titles"
    return f"{count(said['photos'], 'photo')}; {texts['number']:,} {what} of {count(texts['of_photos'], 'photo')}"


def notes(said: Mapping[str, Any]) -> str:
    """What is to be known of the figures."""
    texts = said["texts"]
    lines = ["In brackets, 95 % confidence. Median: of the ranks. A tie counts as not found"]
    if texts["shared"]:
        lines.append(f"{count(texts['shared'], 'text')} of several photos: each of these is a right answer")
    if said["without_vectors"]:
        whose = [f"{model['of']}: {counted(why)}" for model in said["models"] if (why := model["without_vectors"])]
        lines.append(
            f"{count(said['without_vectors'], 'photo')} left out: no vector of every model ({'; '.join(whose)})"
        )
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
    head, told = Text(named_as(model), style="bold"), Text(told_of(model), style="dim")
    if len(model["cosines"][0]) > WIDEST:
        return Group(head, told, Text("the cosines are in --json and --html", style="dim"), Text(""))
    table = Table(box=None, pad_edge=False)
    table.add_column(no_wrap=True, max_width=32, overflow="ellipsis")
    for number in range(1, len(model["cosines"][0]) + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
    for row, (text, cosines) in enumerate(zip(texts, model["cosines"], strict=True)):
        own = row if model["diagonal"] else None
        cells = [Text(f"{value:z.2f}", style="bold" if column == own else "") for column, value in enumerate(cosines)]
        table.add_row(Text(text), *cells)
    return Group(head, table, told, Text(""))


def named_as(model: Mapping[str, Any]) -> str:
    """What a model is called, and which it is."""
    return model["of"] if model["of"].replace("/", " / ", 1) == model["model"] else f"{model['of']} ({model['model']})"


def told_of(model: Mapping[str, Any]) -> str:
    """What a matrix's diagonal comes to."""
    found = model["diagonal"]
    if found is None:
        return "no diagonal to speak of: one pair, or texts and pictures that are no pairs"
    return (
        f"own pictures {found['mean']:.3f}, others {found['others_mean']:.3f}; "
        f"margin {found['margin_mean']:.3f}, least {found['margin_least']:.3f}"
    )
