"""Write docs/config.md from the settings classes: python docs/make_config.py

Each setting is described by the string under its field; `tests/docs/test_config.py` fails when the page is out of date.
"""

from pathlib import Path
from typing import Any

import pydantic

from pipeline import config
from pipeline.search import Query
from pipeline.training.settings import TrainSettings

PAGE = Path(__file__).parent / "config.md"

HEAD = """\
# Configuration

<!-- Made by docs/make_config.py from the settings classes. Edit the strings under their fields, not this page. -->

A configuration is a YAML file, one an archive or one a training; `conf/` has examples. Every setting can be overridden
on the command line, by its key and a value in YAML:

    tintype run conf/loc.yaml --set archive=s3://bucket/loc --set sources.0.limit=200 --set run.runner=local

An unknown key is an error that suggests the nearest known one. Secrets are never settings: they come from the
environment.
"""

# How each class's settings are written, outermost first.
PLACES = {
    "Settings": ("The file", None),
    "FlickrSource": ("Photos on Flickr", "sources[]"),
    "Search": ("A search of Flickr", "sources[].search"),
    "FolderSource": ("A folder of pictures", "sources[]"),
    "ParquetSource": ("Pictures or URLs in Parquet or CSV", "sources[]"),
    "UnsplashSource": ("A search of Unsplash", "sources[]"),
    "ImageSettings": ("Pictures", "images"),
    "EmbeddingSettings": ("An embedding", "embeddings.<name>"),
    "CaptionSettings": ("A caption", "captions.<name>"),
    "LabelSettings": ("Labels", "labels.<name>"),
    "ObjectSettings": ("Objects", "objects.<name>"),
    "IndexSettings": ("The index", "index"),
    "RunSettings": ("Runs", "run"),
    "TrainSettings": ("A training, in a file of its own for `tintype train`", None),
    "ArchiveData": ("What it learns from: an archive", "data[]"),
    "LabelledData": ("Pictures sorted by what they show", "data[]"),
    "CaptionedData": ("Pictures with captions", "data[]"),
    "ScenesData": ("The demo's drawn world", "data[]"),
    "LossSettings": ("The loss of a training", "loss"),
    "UnlockedSettings": ("What is trained of a model", "unlocked"),
    "ValidationSettings": ("How a training is judged", "validation"),
    "Query": ("A query in a file for `tintype search --queries`", "[]"),
}


def page() -> str:
    """The whole of docs/config.md."""
    classes = [*config.setting_classes(), *config.setting_classes(TrainSettings), Query]
    return "\n".join([HEAD, *(section(cls) for cls in classes)])


def section(cls: type) -> str:
    """One class of settings: a heading and a table."""
    title, place = PLACES[cls.__name__]
    rows = [
        f"| `{name}` | {kind(said)} | {default(said)} | {' '.join(said['description'].split())} |"
        for name, said in properties(cls).items()
    ]
    head = f"## {title}" + (f": `{place}`" if place else "")
    return "\n".join([head, "", "| key | value | default | meaning |", "|---|---|---|---|", *rows, ""])


def properties(cls: type) -> dict[str, dict[str, Any]]:
    """Setting → its JSON schema, of one class; `required` says whether it must be given."""
    schema = pydantic.TypeAdapter(cls).json_schema()
    found = {}
    for name, said in schema["properties"].items():
        # Where a class and the field that holds it are described alike, only the class says it.
        whole = schema["$defs"][said["$ref"].rpartition("/")[2]] | said if "$ref" in said else said
        # A source's kind has a default for code, but tells the kinds apart in YAML.
        found[name] = whole | {"required": name in schema.get("required", ()) or "const" in said}
    return found


def kind(said: dict[str, Any]) -> str:
    """The kind of value a setting takes, as YAML has it."""
    if "const" in said:
        return f"`{said['const']}`"
    if "enum" in said:
        return " or ".join(f"`{value}`" for value in said["enum"])
    if "anyOf" in said:
        return " or ".join(kind(one) for one in said["anyOf"])
    if "$ref" in said:
        return "settings"
    if said.get("additionalProperties"):
        return "settings by name"
    if said["type"] == "array" and "type" in said["items"]:
        return f"list of {kind(said['items'])}s"
    names = {"string": "text", "integer": "whole number", "array": "list of settings", "object": "settings"}
    names |= {"boolean": "true or false"}
    return names.get(said["type"], said["type"])


def default(said: dict[str, Any]) -> str:
    if said["required"]:
        return "required"
    if "default" not in said:
        return "none" if kind(said) == "settings by name" else "those below"
    value = said["default"]
    if isinstance(value, bool):
        return f"`{value}`".lower()
    return "null" if value is None else f"`{value}`" if value not in ("", []) else "empty"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
