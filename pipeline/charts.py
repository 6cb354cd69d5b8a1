"""Charts by matplotlib in the colours of our pages: SVG that turns dark with the page around it, or PNG.

Loading this loads matplotlib, which takes half a second: what draws imports it when it draws.
"""

import io
import math
import re
from collections.abc import Sequence
from html import escape

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# As page.STYLE has them by day. In SVG they stand as its variables, so that they follow the reader's colour scheme.
INK, SOFT, RULE, PAPER = "#1e1b17", "#6a6359", "#dcd5c8", "#faf8f3"
SERIES = ("#7b3a1c", "#2f5d73", "#6b7a2e", "#b0812a", "#7a4a6e")
VARIABLES = {INK: "--ink", SOFT: "--soft", RULE: "--rule", PAPER: "--paper"} | {
    color: f"--series-{number}" for number, color in enumerate(SERIES, 1)
}
INCH = 96  # CSS pixels
SHARP = 2  # dots of a PNG for each of them
ON_LIGHT, ON_DARK = "#1e1b16", "#faf8f2"  # numbers upon shades, which are the same by day and night
matplotlib.rcParams |= {  # nothing else here draws
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.titlesize": 10.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=list(SERIES)),
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "tintype",  # the same chart, the same bytes
}
HEAT = LinearSegmentedColormap.from_list("heat", [PAPER, "#e0b58f", SERIES[0], "#3a1a0c"])
LONGEST = 28  # characters of a label


def figure(width: int, height: int, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of so many CSS pixels, and its axes side by side."""
    drawn = Figure(figsize=(width / INCH, height / INCH), dpi=INCH, layout="constrained")
    return drawn, [drawn.add_subplot(1, panels, panel + 1) for panel in range(panels)]


def svg(drawn: Figure, label: str) -> str:
    """The figure as an <svg> to stand in a page; `label` says in words what it shows, for those who do not see it."""
    file = io.StringIO()
    drawn.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub("<metadata>.*?</metadata>", "", text, flags=re.DOTALL)  # who drew it, with links
    text = text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return text


def png(drawn: Figure) -> bytes:
    """The figure as a PNG on paper, two dots a CSS pixel."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=INCH * SHARP, facecolor=PAPER)
    return file.getvalue()


def short(label: str) -> str:
    """A label that leaves room for the chart."""
    return label if len(label) <= LONGEST else label[: LONGEST - 1].rstrip() + "…"


def counts(axes: Axes, ticks: int = 4) -> None:
    """A y axis of whole numbers, with lines to read them by."""
    axes.yaxis.set_major_locator(MaxNLocator(ticks, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.grid(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def whole(axes: Axes, ticks: int) -> None:
    """An x axis of whole numbers, such as years."""
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, steps=[1, 2, 5, 10]))


def doubling(axes: Axes) -> None:
    """An x axis on which each step is twice the one before."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def heatmap(
    axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, form: str = "{:.2f}"
) -> None:
    """A matrix, float[rows, columns], as shades with its numbers in them, where there is room for these."""
    low, high = (float(np.nanmin(values)), float(np.nanmax(values))) if values.size else (0.0, 1.0)
    axes.imshow(values, cmap=HEAT, vmin=low, vmax=high if high > low else low + 1, aspect="auto")
    axes.set_xticks(range(len(columns)), [short(name) for name in columns], rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), [short(name) for name in rows])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if values.size > 400:
        return
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            color = ON_DARK if high > low and (value - low) / (high - low) > 0.55 else ON_LIGHT
            axes.text(column, row, form.format(value), ha="center", va="center", fontsize=8, color=color)


def every_tenth(axes: Axes, rows: int, columns: int) -> None:
    """Numbers, from 1, in the place of the names of a heatmap's rows and columns, where these would be too many."""
    for axis, number in ((axes.yaxis, rows), (axes.xaxis, columns)):
        axis.set_ticks(range(9, number, 10), [str(tenth) for tenth in range(10, number + 1, 10)], rotation=0)


def thumbnails(axes: Axes, pictures: Sequence[np.ndarray]) -> None:
    """Pictures, uint8[height, width, 3], below the columns of a heatmap, in the place of their names."""
    axes.set_xticks([])
    axes.set_aspect("equal")  # as high as a cell is then as wide as one
    rows, columns = axes.get_images()[0].get_array().shape  # type: ignore[union-attr]
    for column, picture in enumerate(pictures):
        place = ((column + 0.06) / columns, -1.04 / rows, 0.88 / columns, 0.98 / rows)
        inset = axes.inset_axes(place, anchor="N")
        inset.imshow(picture, interpolation="lanczos")
        inset.axis("off")
