"""Tables and other small pieces of the report's HTML. Cells are HTML already; whoever makes them has escaped them."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from pipeline import contact_sheet


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kinds: str) -> str:
    """A table that scrolls by itself where it is too wide. `kinds` of columns: n for numbers, b for bars, - else."""
    classes = ["" if kind == "-" else f" class={kind}" for kind in kinds]
    top = "".join(f"<th{kind} scope=col>{escape(name)}</th>" for kind, name in zip(classes, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(classes, row, strict=True)) + "</tr>"
        for row in rows
    )
    label = escape(", ".join(filter(None, head)))
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="{label}"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def bar(share: float) -> str:
    """A bar as long as a share, 0 to 1, beside a number that says the same."""
    return f'<span class="bar" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></span>'


def figure(svg: str, told: str = "") -> str:
    """A chart, with a line about it (HTML)."""
    caption = f"<figcaption>{told}</figcaption>" if told else ""
    return f'<figure><div class="chart" tabindex="0" role="group" aria-label="chart">{svg}</div>{caption}</figure>'


def tiles(found: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers: (number, what it counts, how it is marked)."""
    items = "".join(
        f"<div{f' class={mark}' if mark else ''}><dt>{escape(name)}</dt><dd>{escape(number)}</dd></div>"
        for number, name, mark in found
    )
    return f'<dl class="tiles">{items}</dl>'


def facts(found: Iterable[tuple[str, str]]) -> str:
    """Names with what is said of each (HTML)."""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{said}</dd>" for name, said in found if said)
    return f'<dl class="facts-of">{items}</dl>'


def prose(text: str) -> str:
    """Text as HTML: what it has between backticks is a command."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def paragraph(said: str) -> str:
    return f"<p>{said}</p>"


def share(part: float, whole: float) -> str:
    """ "12 %"; "under 1 %" of what is there but hardly seen."""
    if not whole:
        return ""
    percent = 100 * part / whole
    return "under 1 %" if 0 < percent < 1 else "over 99 %" if 99 < percent < 100 else f"{percent:.0f} %"


def day(moment: str, time: bool = False) -> str:
    """ "2026-11-22T01:36:00+00:00" → "22 November 2026", with the time of day where wanted."""
    shown = contact_sheet.dated(moment, "day")
    return f"{shown}, {moment[11:16]} UTC" if time else shown
