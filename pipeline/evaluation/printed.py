"""What `evaluate` and `compare` print for people, as Rich renderables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.evaluation.recall import CHANCE, DEPTHS
from pipeline.evaluation.retrieval import counted
from pipeline.upkeep.inspection import count

WIDEST = 20  # pictures of a matrix in a terminal
WAYS = {"text_to_image": "text → image", "image_to_text": "image → text"}


def evaluated(said: Mapping[str, Any]) -> RenderableType:
    """`tintype evaluate` for people."""
    head = Text(f"{said['archive']}: {looked_at(said)}")
    called = [Text(named_as(model), style="bold") for model in said["models"]]
    return Group(head, *called, _found(said), Text(notes(said), style="dim"))


def _found(said: Mapping[str, Any]) -> Table:
    """What the models find: each way a row a model, and one a difference from the first."""
    table = Table(box=None, pad_edge=False)
    for column, width in {"": 14, "R@1 %": 16, "R@5 %": 16, "R@10 %": 16, "median": 7}.items():
        table.add_column(column, justify="right" if column else "left", min_width=width, no_wrap=True)
    for way, words in WAYS.items():
        if said["differences"]:
            table.add_row(words)
        for model in said["models"]:
            table.add_row(f"  {model['of'] if said['differences'] else words}", *found(model[way]))
        for name, cells in differences(said, way):
            table.add_row(f"  {name}", *cells, style="bold")
    return table


def found(told: Mapping[str, Any]) -> list[str]:
    """What a model finds one way: its recall at each depth, and the median rank."""
    return [*(share(told[f"recall@{depth}"]) for depth in DEPTHS), f"{told['median_rank']:g}"]


def differences(said: Mapping[str, Any], way: str) -> list[tuple[str, list[str]]]:
    """(what it is called, "+12.3, p 0.012*" at each depth) of each model's difference from the first."""
    several = len(said["differences"]) > 1
    return [
        (
            f"{one['of']} − {one['from']}" if several else "difference",
            [_change(one[way][f"recall@{n}"]) for n in DEPTHS],
        )
        for one in said["differences"]
    ]


def _change(told: Mapping[str, Any]) -> str:
    """In per cent, with how likely it is by chance, and a star where it is beyond that."""
    p = "p <.001" if told["p"] < 0.001 else f"p {told['p']:.3f}"
    value = f"{100 * told['value']:+z.1f}".replace("-", "−")
    return f"{value}, {p}{'*' * told['beyond_chance']}"


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
    if said["differences"]:
        lines.append(
            f"Differences from {said['models'][0]['of']}; p: how often chance makes as large a one; *: p < {CHANCE:g}"
        )
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
