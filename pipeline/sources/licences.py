"""Licences as data: Flickr's ids, and free text or URLs that people write into captions files and picture headers.

The URL is the key by which rights are compared. Creative Commons has moved to https; RightsStatements.org keeps http in
its identifiers on purpose (https://rightsstatements.org/page/1.0/), and other catalogues hold them so.
"""

import re

NO_KNOWN_COPYRIGHT = "http://rightsstatements.org/vocab/NKC/1.0/"
NO_COPYRIGHT_US = "http://rightsstatements.org/vocab/NoC-US/1.0/"
CC0 = "https://creativecommons.org/publicdomain/zero/1.0/"
PUBLIC_DOMAIN_MARK = "https://creativecommons.org/publicdomain/mark/1.0/"
FLICKR_COMMONS = "https://www.flickr.com/commons/usage/"


def _creative_commons(code: str, version: str) -> tuple[str, str]:
    return f"CC {code.upper()} {version}", f"https://creativecommons.org/licenses/{code}/{version}/"


# https://www.flickr.com/services/api/flickr.photos.licenses.getInfo.html: id -> (name, URL).
FLICKR_LICENCES: dict[str, tuple[str, str | None]] = {
    "0": ("All Rights Reserved", None),
    "1": _creative_commons("by-nc-sa", "2.0"),
    "2": _creative_commons("by-nc", "2.0"),
    "3": _creative_commons("by-nc-nd", "2.0"),
    "4": _creative_commons("by", "2.0"),
    "5": _creative_commons("by-sa", "2.0"),
    "6": _creative_commons("by-nd", "2.0"),
    "7": ("No known copyright restrictions", FLICKR_COMMONS),
    "8": ("United States Government Work", NO_COPYRIGHT_US),
    "9": ("Public Domain Dedication (CC0)", CC0),
    "10": ("Public Domain Mark", PUBLIC_DOMAIN_MARK),
    "11": _creative_commons("by", "4.0"),
    "12": _creative_commons("by-sa", "4.0"),
    "13": _creative_commons("by-nd", "4.0"),
    "14": _creative_commons("by-nc", "4.0"),
    "15": _creative_commons("by-nc-sa", "4.0"),
    "16": _creative_commons("by-nc-nd", "4.0"),
}

# https://rightsstatements.org/page/1.0/
RIGHTS_STATEMENTS = {
    "InC": "In Copyright",
    "InC-OW-EU": "In Copyright - EU Orphan Work",
    "InC-EDU": "In Copyright - Educational Use Permitted",
    "InC-NC": "In Copyright - Non-Commercial Use Permitted",
    "InC-RUU": "In Copyright - Rights-Holder(s) Unlocatable or Unidentifiable",
    "NoC-CR": "No Copyright - Contractual Restrictions",
    "NoC-NC": "No Copyright - Non-Commercial Use Only",
    "NoC-OKLR": "No Copyright - Other Known Legal Restrictions",
    "NoC-US": "No Copyright - United States",
    "CNE": "Copyright Not Evaluated",
    "UND": "Copyright Undetermined",
    "NKC": "No Known Copyright",
}

_CC_URL = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/(\d\.\d)(?:/([a-z]{2,3})(?![\w.-]))?", re.I)
_CC_PUBLIC_URL = re.compile(r"creativecommons\.org/publicdomain/(zero|mark)/1\.0", re.I)
_STATEMENT_URL = re.compile(r"rightsstatements\.org/(?:vocab|page)/([\w-]+)/1\.0", re.I)
_COMMONS_URL = re.compile(r"flickr\.com/commons/usage", re.I)
_URL = re.compile(r"(?:https?://)?[\w.-]+/\S*")

_CC_CODES = {"by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd"}
_CC_WORDS = {"attribution": "by", "noncommercial": "nc", "sharealike": "sa", "noderivatives": "nd", "noderivs": "nd"}
_CC_NAME = re.compile(r"(?:cc|creative commons)[ -]((?:[a-z]+[ -])+?)(\d\.\d)(?: (?:international|generic|unported))?")


def recognise(text: str) -> tuple[str, str | None]:
    """(name, URL) of the licence that a text names; the URL is None where the text does not plainly name one.

    The name is the text itself, or the licence's usual name where the text is nothing but a URL. To say too little is
    safe here (a photo without a URL is treated as restricted) and to say too much is not: a text that holds two
    licences, or a Creative Commons licence without its version, maps to none.
    """
    text = " ".join(text.split())
    found = _by_url(text)
    if len(found) == 1:
        url, name = found.popitem()
        return (name if _URL.fullmatch(text) else text), url
    return text, None if found else _by_name(text.lower().rstrip("."))


def _by_url(text: str) -> dict[str, str]:
    """URL -> name of every licence whose address is in the text."""
    found: dict[str, str] = {}
    for match in _CC_URL.finditer(text):
        code, version, country = match[1].lower(), match[2], match[3]
        if code in _CC_CODES:
            name, url = _creative_commons(code, version)
            found[f"{url}{country.lower()}/" if country else url] = f"{name} {country.upper()}" if country else name
    for match in _CC_PUBLIC_URL.finditer(text):
        url = CC0 if match[1].lower() == "zero" else PUBLIC_DOMAIN_MARK
        found[url] = "CC0 1.0" if url == CC0 else "Public Domain Mark 1.0"
    for match in _STATEMENT_URL.finditer(text):
        for code, name in RIGHTS_STATEMENTS.items():
            if code.lower() == match[1].lower():
                found[f"http://rightsstatements.org/vocab/{code}/1.0/"] = name
    if _COMMONS_URL.search(text):
        found[FLICKR_COMMONS] = FLICKR_LICENCES["7"][0]
    return found


def _by_name(text: str) -> str | None:
    """URL of the licence that a lower-case text is the name of."""
    if re.match(r"no known (copyright )?(restrictions|copyright)\b", text):
        return NO_KNOWN_COPYRIGHT  # the Library of Congress's usual words, whatever follows: "… on publication"
    if re.fullmatch(r"(cc ?0|creative commons zero)( 1\.0)?( universal)?|public domain dedication \(cc0\)", text):
        return CC0
    if re.fullmatch(r"public domain( mark)?( 1\.0)?|pdm( 1\.0)?", text):
        return PUBLIC_DOMAIN_MARK
    if text in ("united states government work", "us government work", "u.s. government work"):
        return NO_COPYRIGHT_US
    for code, name in RIGHTS_STATEMENTS.items():
        if text == name.lower():
            return f"http://rightsstatements.org/vocab/{code}/1.0/"
    match = _CC_NAME.fullmatch(text)
    if match:
        words = [_CC_WORDS.get(word, word) for word in re.split("[ -]", match[1].strip(" -")) if word != "license"]
        code = "-".join(words)
        if code in _CC_CODES:
            return _creative_commons(code, match[2])[1]
    return None


def is_restricted(url: str | None) -> bool:
    """Whether pictures with the licence of this URL are to stay where they are: in copyright, or nobody knows."""
    statement = _STATEMENT_URL.search(url or "")
    return url is None or bool(statement and statement[1].startswith(("InC", "CNE", "UND")))
