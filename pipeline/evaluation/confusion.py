"""What a zero-shot evaluation found, for people: in the terminal, as a page, as a picture of what was taken for what.

Loading this loads matplotlib.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline import charts
from pipeline.evaluation import sheet
from pipeline.evaluation.printed import share
from pipeline.models.settings import named
from pipeline.upkeep.inspection import count

LISTED = 30  # classes in a terminal
# Classes of the picture: of more, those most often taken for another or others for them, then those of most pictures.
DRAWN = 60
HEADS = ("class", "pictures", "right", "precision %", "recall %", "most often taken for")


def printed(said: Mapping[str, Any]) -> RenderableType:
    """`tintype evaluate --zero-shot` for people."""
    table = Table(box=None, pad_edge=False)
    for head in HEADS:
        table.add_column(head, justify="left" if head in (HEADS[0], HEADS[-1]) else "right")
    rows, more = said["per_class"], len(said["per_class"]) - LISTED
    if more > 0:
        rows = sorted(rows, key=lambda row: (row["recall"] is None, row["recall"]))[:LISTED]
    for row in rows:
        table.add_row(*cells(row))
    rest = [Text(f"and {more:,} more, whose recall is no lower: see --json or --html", style="dim")] if more > 0 else []
    return Group(Text(f"{said['data']}: {looked_at(said)}"), Text(accuracy(said), style="bold"), table, *rest)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of `per_class`, as HEADS has it."""
    shares = ["–" if row[key] is None else f"{100 * row[key]:.1f}" for key in ("precision", "recall")]
    other = row["taken_for"]
    taken = f"{other['class']} ({other['pictures']:,})" if other else ""
    return [row["class"], f"{row['pictures']:,}", f"{row['right']:,}", *shares, taken]


def looked_at(said: Mapping[str, Any]) -> str:
    """What was asked of which model, and what could not be."""
    told = f"{count(said['pictures'], 'picture')}, {said['classes']} classes, by {model_of(said)}"
    if said["unusable"]:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in said["unusable"].items())
        told += f"; {count(sum(said['unusable'].values()), 'file')} unusable: {reasons}"
    return told


def model_of(said: Mapping[str, Any]) -> str:
    return named(said["model"], said["pretrained"])


def accuracy(said: Mapping[str, Any]) -> str:
    """The figures over all classes."""
    top5 = f", top 5 {share(said['top5'])}" if said["top5"] else ""
    return f"Accuracy %: top 1 {share(said['top1'])}{top5}; mean over the classes {100 * said['mean_recall']:.1f}"


def page(said: Mapping[str, Any]) -> str:
    """A whole HTML document: figures, the picture, and a table of the classes."""
    columns = "".join(f"<th scope=col>{head}</th>" for head in HEADS)
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for name, *rest in map(cells, said["per_class"])
    )
    templates = ", ".join(f"“{template}”" for template in said["templates"])
    told = f"{looked_at(said)}. Texts: {templates}. In brackets, 95 % confidence."
    svg = charts.svg(_drawn(said), f"{legend(said)} The figures of each class are in the table below.")
    head = f"Zero-shot: {said['data']}"
    return sheet.document(
        head,
        head,
        f'<section><h2>{escape(accuracy(said))}</h2><p class="told">{escape(told)}</p></section>'
        f'<section><h2>What was taken for what</h2><p class="told">{escape(legend(said))}</p>'
        f'<div class="chart">{svg}</div></section>'
        f'<section><h2>Class by class</h2><div class="wide"><table><thead><tr>{columns}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>",
    )


def legend(said: Mapping[str, Any]) -> str:
    """What the picture shows."""
    told = "Shares of the pictures of a class (row) that were taken for each class (column), in per cent"
    if said["classes"] > DRAWN:
        told += f"; of the {said['classes']} classes, the {DRAWN} most often confused or with most pictures"
    return told + "."


def png(said: Mapping[str, Any]) -> bytes:
    """The picture of what was taken for what."""
    drawn = _drawn(said)
    drawn.suptitle(f"{model_of(said)}: top 1 {share(said['top1'])} %", ha="left", x=0.01, fontsize=10.5)
    return charts.png(drawn)


def _drawn(said: Mapping[str, Any]) -> Any:
    """The figure: shares as shades, with their numbers where there is room."""
    names, shares = matrix(said)
    side = min(1400, max(440, 34 * len(names))) if len(names) <= 20 else min(1400, 200 + 18 * len(names))
    drawn, [axes] = charts.figure(side + 120, side)
    if np.isnan(shares).all():
        shares = np.zeros_like(shares)
    charts.heatmap(axes, 100 * shares, names, names, form="{:.0f}")
    axes.set_xlabel("taken for")
    axes.set_ylabel("shown")
    return drawn


def matrix(said: Mapping[str, Any]) -> tuple[Sequence[str], np.ndarray]:
    """The classes drawn, and the share of each one's pictures taken for each of them: float[n, n], NaN for none."""
    rows = said["per_class"]
    often: Counter[str] = Counter()
    for cell in said["confusion"]:
        often.update({cell["class"]: cell["pictures"], cell["taken_for"]: cell["pictures"]})
    kept = sorted(rows, key=lambda row: (-often[row["class"]], -row["pictures"]))[:DRAWN]
    shown = [row for row in rows if row in kept]
    places = {row["class"]: place for place, row in enumerate(shown)}
    counts = np.diag([float(row["right"]) for row in shown])
    for cell in said["confusion"]:
        if cell["class"] in places and cell["taken_for"] in places:
            counts[places[cell["class"]], places[cell["taken_for"]]] = cell["pictures"]
    pictures = np.array([[row["pictures"] or 1] for row in shown])
    return list(places), np.where(counts, counts / pictures, np.nan)
