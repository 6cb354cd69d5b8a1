"""Flickr's XML answers re-shaped to what it says as JSON, so that recordings of either go through the same parser."""

import xml.etree.ElementTree as ET
from typing import Any

# https://www.flickr.com/services/api/response.json.html: attributes become keys, text `_content`. What these hold is a
# list there, however many they are; in XML nothing tells one child from a list of one.
LISTS = {
    "photos": "photo",
    "photoset": "photo",
    "sizes": "size",
    "tags": "tag",
    "urls": "url",
    "notes": "note",
}


def as_json(xml: str) -> dict[str, Any]:
    """The answer in this XML as `format=json` has it, but for numbers, which XML cannot tell from text."""
    root = ET.fromstring(xml)
    if root.get("stat") == "fail":
        error = root.find("err")
        assert error is not None
        return {"stat": "fail", "code": int(error.attrib["code"]), "message": error.attrib["msg"]}
    return {child.tag: _shaped(child) for child in root} | {"stat": root.attrib["stat"]}


def _shaped(element: ET.Element) -> dict[str, Any]:
    shaped: dict[str, Any] = dict(element.attrib)
    many = LISTS.get(element.tag)
    # What holds a list has no text of its own; nor has what has children. A photo's own number of photos has no child.
    if many and (len(element) or not (element.text or "").strip()):
        shaped[many] = [_shaped(child) for child in element.findall(many)]
    for child in element:
        if child.tag != many:
            shaped[child.tag] = _shaped(child)
    if not len(element) and not many and (element.text or not element.attrib):
        shaped["_content"] = element.text or ""
    return shaped
