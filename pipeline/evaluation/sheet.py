"""What `evaluate` and `compare` found as one HTML file that needs nothing else, and the matrices as a picture."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from pipeline import charts, page
from pipeline.evaluation.compare import THUMBNAIL, Picture
from pipeline.evaluation.printed import WAYS, differences, found, looked_at, named_as, notes, told_of
from pipeline.evaluation.recall import DEPTHS

CELL = 62  # CSS pixels of the matrices, unless that makes one of them wider or higher than SIDE
SIDE = 1400
LEAST = 240
NAMED = 40  # texts or pictures of a matrix: of more, every tenth has its number, and none its name or thumbnail

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
caption { text-align: left; color: var(--soft); padding-bottom: .35rem; }
ol.told { padding-left: 1.5rem; }
"""


def evaluated(said: Mapping[str, Any]) -> str:
    """What `retrieval.evaluate` says: a whole HTML document."""
    name = said["archive"].rstrip("/").rsplit("/", 1)[-1]
    return document(f"Recall in {name}", f"Recall: {name}", retrieval(said))


def compared(said: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """What `compare.compare` says of these pictures: a whole HTML document."""
    tables = "".join(_matrix(model, said["texts"]) for model in said["models"])
    shown = "".join(f"<li>{_credit(picture)}</li>" for picture in pictures)
    flickr = any(picture.name.startswith("flickr:") for picture in pictures)
    notice = f'<p class="told">{page.FLICKR_NOTICE}</p>' if flickr else ""
    svg = charts.svg(matrices(said, pictures), "Cosines of texts with pictures, by model; the numbers are below")
    sections = (
        '<section><h2>Which text is of which picture?</h2><p class="told">Cosines of each text with each picture. '
        "The better a model, the further its diagonal stands out: the texts' own pictures.</p>"
        f'<div class="chart">{svg}</div>{tables}</section>'
        f'<section><h2>The pictures</h2><ol class="told">{shown}</ol>{notice}</section>'
    )
    title = " and ".join(model["of"] for model in said["models"])
    return document(
        f"{title} compared", f"Compared: {title}", sections + (retrieval(said["recall"]) if said["recall"] else "")
    )


def _credit(picture: Picture) -> str:
    """A picture's title, rights and link home; the name of a file."""
    if picture.facts is None:
        return escape(picture.name)
    facts = picture.facts
    licence = facts["license_name"] or facts["license_url"] or "No licence stated: ask before you use it"
    said = [page.link(facts["page_url"], escape(facts["title"] or picture.name)), escape(facts["owner"] or "")]
    return " · ".join(filter(None, [*said, page.link(facts["license_url"], escape(licence))]))


def _matrix(model: Mapping[str, Any], texts: Sequence[str]) -> str:
    heads = "".join(f"<th scope=col>{number}</th>" for number in range(1, len(model["cosines"][0]) + 1))
    rows = "".join(
        f"<tr><th scope=row>{escape(text)}</th>{''.join(f'<td>{value:z.3f}</td>' for value in row)}</tr>"
        for text, row in zip(texts, model["cosines"], strict=True)
    )
    return (
        f'<div class="wide"><table><caption>{escape(named_as(model))}: {told_of(model)}</caption>'
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def matrices(said: Mapping[str, Any], pictures: Sequence[Picture]) -> charts.Figure:
    """The matrices side by side, the pictures below their columns, where there is room for them."""
    rows, columns = len(said["texts"]), len(pictures)
    many = max(rows, columns) > NAMED
    cell = min(CELL, SIDE // max(rows, columns))
    across, down = (max(LEAST, number * cell) if many else number * cell for number in (columns, rows + 1))
    drawn, panels = charts.figure(2 * across + 240, down + 60, len(said["models"]))
    small = []
    for picture in [] if many else pictures:
        image = picture.image.copy()
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        small.append(np.asarray(image))
    for number, (axes, model) in enumerate(zip(panels, said["models"], strict=True)):
        charts.heatmap(axes, np.array(model["cosines"]), said["texts"], said["pictures"], form="{:z.2f}")
        if many:
            charts.every_tenth(axes, rows, columns)
        else:
            charts.thumbnails(axes, small)
        axes.set_title(charts.short(model["of"]))
        if number:  # the rows are those of the first
            axes.set_yticks([])
    return drawn


def document(title: str, head: str, sections: str) -> str:
    return (
        f'{page.head(title, STYLE)}<div class="masthead"><h1>{escape(head)}</h1></div>'
        f"<main>{sections}</main><footer><p>Measured by Tintype.</p></footer></body></html>\n"
    )


def retrieval(said: Mapping[str, Any]) -> str:
    """The section on recall: a chart, and the figures in a table."""
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{words}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for way, words in WAYS.items()
        for name, cells in [
            *((named_as(model), found(model[way])) for model in said["models"]),
            *((name, [*map(escape, cells), ""]) for name, cells in differences(said, way)),
        ]
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
            recalls = [model[way][f"recall@{depth}"] for depth in DEPTHS]
            shares = np.array([[one[key] for one in recalls] for key in ("value", "low", "high")])
            places = np.arange(len(DEPTHS)) + (number - (len(models) - 1) / 2) * width
            reach = np.abs(shares[1:] - shares[0])
            axes.bar(places, shares[0], width * 0.92, label=charts.short(model["of"]))
            axes.errorbar(places, shares[0], yerr=reach, fmt="none", ecolor=charts.INK, elinewidth=1, capsize=3)
        axes.set_xticks(range(len(DEPTHS)), [f"R@{depth}" for depth in DEPTHS])
        axes.set_ylim(0, 1.02)
        axes.grid(axis="y")
        axes.set_title(words)
    if len(models) > 1:
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(models))
    return charts.svg(drawn, "Recall at 1, 5 and 10, from text to image and back; the figures are in the table below")
