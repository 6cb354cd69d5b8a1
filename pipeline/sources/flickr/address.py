"""How people name photos on Flickr: by any page of theirs on flickr.com, or by what users and albums are called there.

Which addresses there are was gathered from pages of flickr.com, old and new; Flickr documents few of them
(https://www.flickr.com/services/api/misc.urls.html). Nothing is asked of Flickr here.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.photo import UserError
from pipeline.sources.flickr.search import NSID, USER, Search

KINDS = "a photostream, an album, a gallery, a group's pool, a search, a tag or a single photo"

_NUMBER = re.compile(r"[0-9]+")
_VIEW = re.compile(r"(/page[0-9]+)?(/with/[0-9]+)?(/page[0-9]+|/show)?")  # of the same photos
_PICTURE = re.compile(r"([0-9]+)_[0-9a-f]+(_\w+)?\.\w+")
_BASE58 = "123456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"  # without 0, I, O and l

# What the address of a search says that concerns how it is shown, not which photos it finds. A key without a user's
# consent sees safe photos only, whatever is asked.
_SHOWN = {"view_all", "view", "sort", "page", "advanced", "safe_search"}
_ASKED = {
    *("text", "q", "tags", "tag_mode", "user_id", "group_id", "license", "is_commons", "media"),
    *("min_upload_date", "max_upload_date", "min_taken_date", "max_taken_date"),
}


@dataclass(frozen=True, slots=True)
class Photostream:
    """All public photos of a user."""

    user: str  # NSID ("8623220@N02") or path alias ("library_of_congress")

    @property
    def name(self) -> str:
        return f"flickr:{self.user}"


@dataclass(frozen=True, slots=True)
class Album:
    user: str  # NSID or path alias
    number: str

    @property
    def name(self) -> str:
        return f"flickr:{self.user}/{self.number}"


@dataclass(frozen=True, slots=True)
class Gallery:
    """What somebody chose of other people's photos."""

    number: str

    @property
    def name(self) -> str:
        return f"flickr:galleries/{self.number}"


@dataclass(frozen=True, slots=True)
class Group:
    """The pool of a group."""

    group: str  # NSID or path alias

    @property
    def name(self) -> str:
        return f"flickr:groups/{self.group}"


@dataclass(frozen=True, slots=True)
class SinglePhoto:
    number: str

    @property
    def name(self) -> str:
        return f"flickr:photos/{self.number}"


Address = Photostream | Album | Gallery | Group | SinglePhoto | Search


def parse_user(user: str, album: str | None) -> Photostream | Album:
    """The photostream, or the album of it, that is meant; an album's URL given as `user` means the album.

    Raises UserError where either of them is something else.
    """
    of_user = _user_page(user)
    of_album = _user_page(album) if album is not None else None
    name = of_user[0] if of_user else user.strip()
    if not USER.fullmatch(name):
        raise UserError(
            f"{user!r} names no Flickr user: give an NSID, a path alias or a flickr.com/photos/… URL, "
            "or any other address on flickr.com as `url`"
        )
    number = of_album[1] if of_album else album
    if album is not None and not _NUMBER.fullmatch(number or ""):
        raise UserError(f"{album!r} names no Flickr album: give its number or its flickr.com/photos/…/albums/… URL")
    if number is None and of_user:
        number = of_user[1]
    return Photostream(name) if number is None else Album(name, number)


def parse_url(text: str) -> Address:
    """What an address on flickr.com, as pasted from a browser, leads to. Raises UserError where that is no photos."""
    host, path, query = _split(text)
    try:
        if host == "flickr.com":
            found = _page(path, query)
        elif host == "flic.kr":
            found = _short(path)
        elif host.endswith((".staticflickr.com", ".static.flickr.com")):
            picture = _PICTURE.fullmatch(path[-1]) if path else None
            found = SinglePhoto(picture[1]) if picture else None
        else:
            raise UserError(f"{text!r} is no address on flickr.com: give that of {KINDS}")
    except (ValueError, OverflowError) as error:  # of a search
        raise UserError(f"{text!r}: {error}") from None
    if found is None:
        raise UserError(f"{text!r} leads to no photos that can be listed: give the address of {KINDS}")
    return found


def _split(text: str) -> tuple[str, list[str], dict[str, str]]:
    """Host, steps of the path and query of an address; the host is empty where it is none."""
    text = text.strip()
    try:
        url = urlsplit(text if re.match(r"(\w+:)?//", text) else f"https://{text}")
        host = url.hostname or ""
    except ValueError:  # such as of a host in brackets
        return "", [], {}
    if url.scheme not in ("http", "https", "") or not host.isascii():
        return "", [], {}
    query = {key: values[-1] for key, values in parse_qs(url.query).items()}
    return host.removeprefix("www.").removeprefix("m."), [unquote(step) for step in url.path.split("/") if step], query


def _user_page(text: str) -> tuple[str, str | None] | None:
    """The user, and the album if it is one's page, of a page below a user's own."""
    host, path, _ = _split(text)
    match path:
        case ["photos", user, "albums" | "sets", number, *_] if host == "flickr.com" and _NUMBER.fullmatch(number):
            return user, number
        case ["photos" | "people", user, *_] if host == "flickr.com" and user != "tags":
            return user, None
    return None


def _page(path: list[str], query: dict[str, str]) -> Address | None:
    """What a page of flickr.com shows."""
    match path:
        case ["photo.gne"] if _NUMBER.fullmatch(query.get("id", "")):
            return SinglePhoto(query["id"])
        case ["search"]:
            return _search(query)
        case ["photos", "tags", tags, *view] if _is_view(view):
            return Search(tags=_tags(tags))
        case ["photos" | "people", user, *rest] if user != "tags" and USER.fullmatch(user):
            return _of_user(path[0], _nsid(user), rest)
        case ["groups", group] if USER.fullmatch(group):
            return Group(_nsid(group))
        case ["groups", group, "pool", *view] if USER.fullmatch(group) and _is_view(view):
            return Group(_nsid(group))
    return None


def _of_user(root: str, user: str, rest: list[str]) -> Address | None:
    """What a page below a user's own shows. What follows a number says how it was come by, or how it is shown."""
    if _is_view(rest):
        return Photostream(user)
    match rest if root == "photos" else []:
        case ["albums" | "sets", "with", number, *_] | ["albums" | "sets", number, *_] if _NUMBER.fullmatch(number):
            return Album(user, number)
        case ["galleries" | "gallery", number, *_] if _NUMBER.fullmatch(number):
            return Gallery(number)
        case ["tags", tags, *view] if _is_view(view):
            return Search(user=user, tags=_tags(tags))
        case [number, *_] if _NUMBER.fullmatch(number):
            return SinglePhoto(number)
    return None


def _short(path: list[str]) -> SinglePhoto | None:
    """The photo of a short link. Those of albums and people cannot be read without asking Flickr whose they are."""
    match path:
        case ["p", code] if set(code) <= set(_BASE58):
            number = 0
            for letter in code:
                number = number * len(_BASE58) + _BASE58.index(letter)
            return SinglePhoto(str(number))
    return None


def _search(query: dict[str, str]) -> Search:
    """What the address of a search asks for. ValueError where that is something we cannot ask, or nothing."""
    unknown = sorted(key for key in query.keys() - _ASKED - _SHOWN if not key.startswith("utm_"))
    if unknown:
        raise ValueError(f"a search by {', '.join(unknown)} cannot be listed: take that out of the address")
    dates = {key: _moment(value) for key, value in query.items() if key.endswith("_date")}
    media, mode, licences = query.get("media", "all"), query.get("tag_mode", "any"), query.get("license", "")
    if media not in ("all", "photos", "videos") or mode not in ("any", "all"):
        raise ValueError(f"media={media} or tag_mode={mode} is nothing that Flickr knows")
    if not re.fullmatch(r"[0-9, ]*", licences):
        raise ValueError(f"license={licences} are no numbers of licences")
    return Search(
        text=query.get("text") or query.get("q"),
        tags=_tags(query.get("tags", "")),
        tag_mode="all" if mode == "all" else "any",
        user=_nsid(query["user_id"]) if "user_id" in query else None,
        group=_nsid(query["group_id"]) if "group_id" in query else None,
        licenses=tuple(int(number) for number in re.findall("[0-9]+", licences)),
        is_commons=query.get("is_commons") in ("1", "true"),
        media="photos" if media == "photos" else "videos" if media == "videos" else None,
        min_upload_date=dates.get("min_upload_date"),
        max_upload_date=dates.get("max_upload_date"),
        min_taken_date=dates.get("min_taken_date"),
        max_taken_date=dates.get("max_taken_date"),
    )


def _moment(text: str) -> str:
    """A moment of an address, which may be given in Unix seconds, as ISO has it."""
    return datetime.fromtimestamp(int(text), UTC).isoformat() if _NUMBER.fullmatch(text) else text


def _tags(text: str) -> tuple[str, ...]:
    return tuple(tag.strip() for tag in text.split(",") if tag.strip())


def _is_view(rest: list[str]) -> bool:
    return _VIEW.fullmatch("".join(f"/{step}" for step in rest)) is not None


def _nsid(user: str) -> str:
    """An NSID as Flickr writes it; old addresses have them in small letters."""
    return user.upper() if NSID.fullmatch(user.upper()) else user


def photo_id(text: str) -> str:
    """The id of a photo that people name by it, by its number, or by its page on flickr.com. Raises UserError."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return f"flickr:{text}"
    if ":" in text and "//" not in text:
        return text
    found = parse_url(text) if "/" in text else None
    if not isinstance(found, SinglePhoto):
        raise UserError(f"{text!r} names no photo: give its id, such as flickr:2179931434, or its page on flickr.com")
    return f"flickr:{found.number}"
