"""The card of an exported data set: what it holds, whose rights are on it, and what made it."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline import __version__
from pipeline.export.selection import Selection
from pipeline.models.settings import named

# What a reader of the data set asks of its columns; docs/tables.md says more.
MEANING = {
    "row_id": "the picture's address in the archive",
    "photo_id": "which photo it is, the same for ever",
    "source": "where it was listed",
    "title": "as its source gives it",
    "description": "as its source gives it; of Flickr with HTML",
    "tags": "as its source gives them",
    "machine_tags": "tags that programs set at the source",
    "human_captions": "captions that people wrote",
    "date_taken": "ISO 8601, cut to what is known",
    "date_granularity": "how exact that is",
    "uploaded_at": "when it was uploaded to its source",
    "updated_at": "when it was last changed there",
    "latitude": "degrees, north positive",
    "longitude": "degrees, east positive",
    "owner": "the name to credit",
    "owner_id": "the source's own id of the owner",
    "page_url": "the photo's page: link to it wherever you show the photo",
    "license_id": "the source's own id of the licence",
    "license_name": "the source's own name of it",
    "license_url": "the licence; null where it is not known",
    "rights_observed_at": "when the licence was observed: rights change",
    "media": "photo, or the still of a video",
    "attempt": "how often the picture had been asked for",
    "listed_at": "when it was listed",
    "format": "of the picture's file",
    "small": "whether no size was offered that the models would have liked",
    "store": "original: the bytes as served; derivative: a JPEG made of them",
    "fetched_at": "when it was fetched",
    "source_url": "where the picture came from",
    "source_size": "bytes that came from there",
    "source_width": "pixels of what came from there, upright",
    "source_height": "pixels of what came from there, upright",
    "source_sha256": "SHA-256 of what came from there",
    "width": "pixels of the picture, upright",
    "height": "pixels of the picture, upright",
    "caption": "**written by a machine**: see below",
    "caption_model": "which one wrote it",
    "caption_by": "the person who wrote the caption in the machine's place",
    "caption_logprob": "mean natural log-probability of a token of the caption",
    "caption_cosine": "of the caption with the picture, in the captioning model's space",
    "labels": "**by a machine**: the likeliest of the classes below, best first, with their probabilities",
    "labels_model": "which one gave them",
    "objects": "**by a machine**: what it was to look for, and where it seems to be, best first; boxes are shares of "
    "the picture's width and height, from the upper left corner",
    "objects_model": "which one found them",
    "embedding": "unit vector of the picture; null where there is none",
    "image": "the picture",
}


def render(selection: Selection, schema: pa.Schema) -> str:
    """A README.md in the form of Hugging Face's dataset cards (https://huggingface.co/docs/hub/datasets-cards)."""
    build, photos = selection.build, len(selection.row_ids)
    facts = selection.facts(selection.row_ids, ["row_id", "license_name", "license_url", "source"])
    licences = Counter(zip(*(facts[name].to_pylist() for name in ("license_name", "license_url")), strict=True))
    sources = sorted(set(facts["source"].to_pylist()) - {None})
    front = {
        "pretty_name": build.archive.url.rstrip("/").rpartition("/")[2],
        "license": "other",
        "license_name": "per-photo",
        "task_categories": ["image-to-text", "image-feature-extraction"],
        "size_categories": [_size(photos)],
        "configs": [{"config_name": "default", "data_files": "data/*.parquet"}],
    }
    columns = [(f"`{field.name}`", f"`{field.type}`", MEANING.get(field.name, "")) for field in schema]
    rights = [(name or "unknown", url or "none", f"{n:,}") for (name, url), n in licences.most_common()]
    lines = [
        *("---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", ""),
        *(f"# {front['pretty_name']}", ""),
        f"{photos:,} photos, with facts, rights, captions and vectors: one row each, in `data/`.",
        "What an earlier export held and this one does not is listed in `removed.parquet`: delete your copies of it.",
        *("", "## Columns", "", *_table(("column", "type", "meaning"), columns)),
        *(
            "",
            "## Rights",
            "",
            "Each photo has its own, as observed at `rights_observed_at`. They are those of the photos;",
        ),
        "whoever uses them answers for it.",
        *("", *_table(("licence", "URL", "photos"), rights)),
        *("", "## Models", "", *(f"- {line}" for line in _models(build.card))),
        *("", "## Provenance", ""),
        f"Exported on {datetime.now(UTC):%Y-%m-%d} by Tintype {__version__}, from the index build",
        f"`{build.card['build']}`. The photos come from {', '.join(sources) or 'nowhere'}.",
    ]
    if selection.left_out:
        lines.append("Left out: " + ", ".join(f"{n:,} {reason}" for reason, n in selection.left_out.items()) + ".")
    return "\n".join(lines) + "\n"


def _models(card: dict[str, Any]) -> list[str]:
    identity = card["identity"]
    weights = identity.get("weights_license") or "not known: ask their makers"
    lines = [
        f"Vectors: {named(identity['model'], identity.get('pretrained'))}, weights of SHA-256 "
        f"`{identity.get('checkpoint_sha256')}`; licence of the weights: {weights}"
    ]
    if card["captions"]:
        identity = card["captions"]["identity"]
        weights = identity.get("weights_license") or "not known: ask their makers"
        kind = (identity.get("generation") or {}).get("kind", "its own way")
        lines.append(
            f"Captions were written by a machine: {named(identity['model'], identity.get('pretrained'))}, generation "
            f"{kind}; licence of the weights: {weights}"
        )
    if card["labels"]:
        identity = card["labels"]["identity"]
        weights = identity.get("weights_license") or "not known: ask their makers"
        classes, texts = identity["classes"], ", ".join(f"“{text}”" for text in identity["templates"])
        lines.append(
            f"Labels were given by a machine: {named(identity['model'], identity.get('pretrained'))}, of "
            f"{len(classes):,} classes by the texts {texts}; licence of the weights: {weights}. "
            f"The classes: {', '.join(classes)}"
        )
    if card["objects"]:
        identity = card["objects"]["identity"]
        weights = identity.get("weights_license") or "not known: ask their makers"
        lines.append(
            f"Objects were found by a machine: {named(identity['model'], None)}, by the text “{identity['template']}”, "
            f"with scores from {identity['threshold']:g}; licence of the weights: {weights}. "
            f"It looked for: {', '.join(identity['queries'])}"
        )
    return lines


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A Markdown table; what came from a source cannot end a cell."""
    cells = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells]


def _size(photos: int) -> str:
    """The hub's word for a size: "1K<n<10K"."""
    if photos < 1000:
        return "n<1K"
    bounds = [(10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
    return next((word for bound, word in bounds if photos < bound), "10M<n<100M")
