"""What `evaluate` found as one HTML file that needs nothing else."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from pipeline import charts, page
from pipeline.evaluation.printed import WAYS, looked_at, notes, share
from pipeline.evaluation.recall import DEPTHS

STYLE = """
main > section { padding-top: clamp(2rem, 4vw, 3rem); }
h2 { font-weight: 400; font-size: clamp(1.4rem, 1.1rem + 1.5vw, 2rem); line-height: 1.25; }
.told { max-width: 75ch; margin-top: .5rem; color: var(--soft); font: 400 .875rem/1.6 var(--sans); }
.chart, .wide { overflow-x: auto; margin-top: 1.25rem; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font: 400 .875rem/1.5 var(--sans); font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.5rem .35rem 0; border-bottom: 1px solid var(--rule); text-align: left; font-weight: 400; }
thead th { color: var(--soft); }
td { white-space: nowrap; }
"""


def evaluated(said: Mapping[str, Any]) -> str:
    """What `retrieval.evaluate` says: a whole HTML document."""
    name = said["archive"].rstrip("/").rsplit("/", 1)[-1]
    return document(f"Recall in {name}", f"Recall: {name}", retrieval(said))


def document(title: str, head: str, sections: str) -> str:
    return (
        f'{page.head(title, STYLE)}<div class="masthead"><h1>{escape(head)}</h1></div>'
        f"<main>{sections}</main><footer><p>Measured by Tintype.</p></footer></body></html>\n"
    )


def retrieval(said: Mapping[str, Any]) -> str:
    """The section on recall: a chart, and the figures in a table."""
    rows = "".join(
        f"<tr><th scope=row>{escape(model['of'])}</th><td>{words}</td>"
        + "".join(f"<td>{share(model[way][f'recall@{depth}'])}</td>" for depth in DEPTHS)
        + f"<td>{model[way]['median_rank']:g}</td></tr>"
        for model in said["models"]
        for way, words in WAYS.items()
    )
    heads = ("model", "", *(f"R@{depth} %" for depth in DEPTHS), "median rank")
    columns = "".join(f"<th scope=col>{head}</th>" for head in heads)
    told = f"{looked_at(said)}. {'. '.join(notes(said).splitlines())}."
    return (
        f'<section><h2>Do texts and pictures find each other?</h2><p class="told">{escape(told)}</p>'
        f'<div class="chart">{_chart(said)}</div>'
        f'<div class="wide"><table><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def _chart(said: Mapping[str, Any]) -> str:
    """Recall at each depth, a bar a model, with its confidence interval; one panel each way."""
    drawn, panels = charts.figure(880, 280, 2)
    models = said["models"]
    width = 0.8 / len(models)
    for axes, (way, words) in zip(panels, WAYS.items(), strict=True):
        for number, model in enumerate(models):
            found = [model[way][f"recall@{depth}"] for depth in DEPTHS]
            shares = np.array([[one[key] for one in found] for key in ("value", "low", "high")])
            places = np.arange(len(DEPTHS)) + (number - (len(models) - 1) / 2) * width
            reach = np.abs(shares[1:] - shares[0])
            axes.bar(places, shares[0], width * 0.92, label=charts.short(model["of"]))
            axes.errorbar(places, shares[0], yerr=reach, fmt="none", ecolor=charts.INK, elinewidth=1, capsize=3)
        axes.set_xticks(range(len(DEPTHS)), [f"R@{depth}" for depth in DEPTHS])
        axes.set_ylim(0, 1)
        axes.grid(axis="y")
        axes.set_title(words)
    if len(models) > 1:
        panels[1].legend(loc="lower right")
    return charts.svg(drawn, "Recall at 1, 5 and 10, from text to image and back; the figures are in the table below")
