"""What a picture's own header tells: XMP, IPTC, EXIF. Reads headers only; what is broken counts as absent."""

import json
import re
from contextlib import suppress
from typing import Any, BinaryIO
from xml.etree import ElementTree

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

from pipeline.pixels import DECODER_ERRORS, hush_warnings
from pipeline.sources.facts import Facts

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")  # whose headers hold such things

# What cameras write into the description by themselves.
NOT_A_TITLE = re.compile(
    r"(olympus|minolta|konica|sony|samsung|kodak|casio|dcim|digital|camera|dsc|dig|ma|default|\W)*", re.I
)

NAMESPACES = {
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/xap/1.0/rights/": "xmpRights",
    "http://creativecommons.org/ns#": "cc",
    "http://ns.adobe.com/exif/1.0/": "exif",
}
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


def read(file: BinaryIO) -> Facts:
    """What the picture in an open file tells of itself, XMP believed before IPTC before EXIF."""
    hush_warnings()
    with suppress(Image.DecompressionBombError, *DECODER_ERRORS), Image.open(file, formats=FORMATS) as image:
        return _xmp(image).or_else(_iptc(image)).or_else(_exif(image))
    return Facts()


def _xmp(image: ImageFile.ImageFile) -> Facts:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    packet = packet.encode() if isinstance(packet, str) else packet
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:  # no honest packet has one; it could be made to grow for ever
        return Facts()
    with suppress(ElementTree.ParseError, *DECODER_ERRORS):
        told = _properties(ElementTree.fromstring(packet.strip(b"\0 \t\r\n")))
        notice = told.get("cc:license") or told.get("xmpRights:WebStatement") or told.get("dc:rights")
        return Facts(
            title=_first(told.get("dc:title")) or _first(told.get("photoshop:Headline")),
            description=_first(told.get("dc:description")),
            creator="; ".join(told.get("dc:creator", [])) or None,
            date=_first(told.get("exif:DateTimeOriginal")) or _first(told.get("photoshop:DateCreated")),
            licence=_first(notice),
            tags=tuple(told.get("dc:subject", ())),
            raw=json.dumps({"xmp": told}, ensure_ascii=False) if told else None,
        )
    return Facts()


def _properties(root: ElementTree.Element) -> dict[str, list[str]]:
    """The properties of an XMP packet in our namespaces: "dc:title" → its values, in the packet's order."""
    told: dict[str, list[str]] = {}

    def tell(name: str, values: list[str]) -> None:
        space, _, local = name.removeprefix("{").partition("}")
        values = [value.strip() for value in values if value and value.strip()]
        if space in NAMESPACES and values:
            told.setdefault(f"{NAMESPACES[space]}:{local}", []).extend(values)

    for description in root.iter(f"{RDF}Description"):
        for name, value in description.attrib.items():
            tell(name, [value])
        for child in description:
            items = [item.text or "" for item in child.iter(f"{RDF}li")]
            tell(child.tag, items or [child.get(f"{RDF}resource") or child.text or ""])
    return told


def _iptc(image: ImageFile.ImageFile) -> Facts:
    with suppress(*DECODER_ERRORS):
        told = IptcImagePlugin.getiptcinfo(image)
        if not told:
            return Facts()
        utf8 = told.get((1, 90)) == b"\x1b%G"

        def texts(number: int) -> list[str]:
            values = told.get((2, number), [])
            return [_text(value, utf8) for value in (values if isinstance(values, list) else [values])]

        return Facts(
            title=_first(texts(5)) or _first(texts(105)),
            description=_first(texts(120)),
            creator="; ".join(texts(80)) or None,
            date=re.sub(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", _first(texts(55)) or "") or None,
            licence=_first(texts(116)),
            tags=tuple(texts(25)),
            raw=json.dumps({"iptc": {f"{a}:{b}": texts(b) for a, b in told if a == 2}}, ensure_ascii=False)
            if told
            else None,
        )
    return Facts()


def _exif(image: ImageFile.ImageFile) -> Facts:
    with suppress(*DECODER_ERRORS):
        if image.format == "TIFF":
            exif = image.getexif()
        else:  # not getexif: of a PNG without EXIF it would read all pixels to look for some behind them
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
        title = _text(exif.get(ExifTags.Base.ImageDescription))
        latitude, longitude = _position(exif.get_ifd(ExifTags.IFD.GPSInfo))
        return Facts(
            title=None if NOT_A_TITLE.fullmatch(title) else title or None,
            creator=_text(exif.get(ExifTags.Base.Artist)) or None,
            date=_text(exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)) or None,
            licence=_text(exif.get(ExifTags.Base.Copyright)).replace("\0", " ").strip() or None,
            latitude=latitude,
            longitude=longitude,
        )
    return Facts()


def _position(gps: dict[int, Any]) -> tuple[float | None, float | None]:
    """Latitude and longitude in degrees, of EXIF's degrees, minutes and seconds; both None if one makes no sense."""
    found = []
    for ref, value, most in ((1, 2, 90), (3, 4, 180)):
        with suppress(*DECODER_ERRORS):
            degrees, minutes, seconds = (float(part) for part in gps[value])
            angle = (degrees + minutes / 60 + seconds / 3600) * (-1 if gps[ref] in ("S", "W") else 1)
            if abs(angle) <= most:  # false of NaN too
                found.append(angle)
    if len(found) < 2 or found == [0, 0]:  # 0/0 is how cameras write that they had no reception
        return None, None
    return found[0], found[1]


def _text(value: object, utf8: bool = False) -> str:
    """Text of EXIF and IPTC, which seldom says how it is encoded."""
    if isinstance(value, str):  # Pillow has read EXIF's bytes as Latin-1
        value = value.encode("latin-1", "replace")
    if not isinstance(value, bytes):
        return ""
    try:
        return value.decode("utf-8").strip("\0 \t\r\n")
    except UnicodeDecodeError:
        return value.decode("utf-8" if utf8 else "cp1252", "replace").strip("\0 \t\r\n")


def _first(values: list[str] | None) -> str | None:
    return next((value for value in values or [] if value), None)
