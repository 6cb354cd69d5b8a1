"""COCO's captions: one JSON file of pictures, captions and licences, each apart (https://cocodataset.org/#format-data)."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pipeline.sources.facts import Facts, storable
from pipeline.sources.licences import recognise

_ON_FLICKR = re.compile(r"https?://\w+\.static\.?flickr\.com/\d+/(\d+)_\w+\.\w+")


def read(text: str) -> Iterator[tuple[str, Facts] | None]:
    """(file name, what is told of it) of each picture; None for an entry that cannot be read, or is of no picture.

    Raises ValueError for a text that is no such file, RecursionError for one that is nested too deep to be one.
    """
    told = json.loads(text)
    if not isinstance(told, dict) or not all(isinstance(told.get(key), list) for key in ("images", "annotations")):
        raise ValueError("no COCO captions")
    stated = told["licenses"] if isinstance(told.get("licenses"), list) else ()
    licences = {one["id"]: _licence(one) for one in stated if isinstance(one, dict) and _is_key(one.get("id"))}
    files: dict[Any, str] = {}
    facts: dict[str, Facts] = {}
    for image in told["images"]:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or not _is_key(image.get("id")):
            yield None
            continue
        files[image["id"]] = image["file_name"]
        facts[image["file_name"]] = Facts(
            licence=licences.get(image["license"]) if _is_key(image.get("license")) else None,
            page_url=_page(image),
            raw=storable(json.dumps(image, ensure_ascii=False)),
        )
    captions: dict[str, list[str]] = {}
    for annotation in told["annotations"]:
        file = files.get(_image_id(annotation))
        caption = annotation.get("caption") if isinstance(annotation, dict) else None
        if file is None or not isinstance(caption, str):
            yield None
        elif caption.strip():
            captions.setdefault(file, []).append(storable(caption.strip()))
    for file, found in facts.items():
        yield file, replace(found, captions=tuple(captions.get(file, ())))


def _is_key(value: Any) -> bool:
    return isinstance(value, int | str)


def _image_id(annotation: Any) -> Any:
    key = annotation.get("image_id") if isinstance(annotation, dict) else None
    return key if _is_key(key) else None


def _licence(told: dict[str, Any]) -> str | None:
    """The URL where it is one we know, else the name: COCO gives that of government works no URL that says so."""
    url, name = (storable(str(told.get(key) or "")).strip() for key in ("url", "name"))
    return url if recognise(url)[1] else name or url or None


def _page(image: dict[str, Any]) -> str | None:
    """The photo's page on Flickr, to which COCO has but the picture's address; without one, where COCO serves it."""
    found = _ON_FLICKR.fullmatch(str(image.get("flickr_url") or ""))
    if found:
        return f"https://www.flickr.com/photo.gne?id={found[1]}"
    served = storable(str(image.get("coco_url") or ""))
    return served if served.startswith(("http://", "https://")) else None
