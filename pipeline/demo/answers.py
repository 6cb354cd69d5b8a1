"""What Flickr's API answers about the demo's stream, in the shapes and types of its JSON. Pure functions."""

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.demo.rows import Offer, entry, geo, offers, unknown
from pipeline.demo.searching import Fail, found
from pipeline.demo.stream import ALIAS, NSID, OWNER, DemoPhoto, Stream

__all__ = ["METHODS", "Offer", "answer", "failure", "offers"]

HOME = f"https://www.flickr.com/photos/{ALIAS}/"

SEARCH_CAP = 4000  # results of a search; past them the last of them repeat


def answer(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    """The answer to a call with these parameters. Addresses of pictures are at `host`, such as `http://127.0.0.1:8765`."""
    method = parameters.get("method", "")
    try:
        if method not in METHODS:
            raise Fail(112, f'Method "{method}" not found')
        return {**METHODS[method](stream, parameters, host), "stat": "ok"}
    except Fail as fail:
        return failure(fail.code, str(fail))


def failure(code: int, message: str) -> dict[str, Any]:
    return {"stat": "fail", "code": code, "message": message}


def _lookup_user(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    name = parameters.get("url", "").rstrip("/").rsplit("/", 1)[-1]
    if name not in (ALIAS, NSID):
        raise Fail(1, "User not found")
    return {"user": {"id": NSID, "username": {"_content": OWNER}}}


def _lookup_group(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    name = parameters.get("url", "").rstrip("/").rsplit("/", 1)[-1]
    if name not in (stream.group.alias, stream.group.nsid):
        raise Fail(1, "Group not found")
    return {"group": {"id": stream.group.nsid, "groupname": {"_content": stream.group.title}}}


def _find_by_username(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    if parameters.get("username") != OWNER:
        raise Fail(1, "User not found")
    return {"user": {"id": NSID, "nsid": NSID, "username": {"_content": OWNER}}}


def _person(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    _check_user(parameters)
    oldest = stream.photos[-1]
    return {
        "person": {
            "id": NSID,
            "nsid": NSID,
            "ispro": 1,
            "iconserver": "0",
            "iconfarm": 0,
            "path_alias": ALIAS,
            "username": {"_content": OWNER},
            "description": {"_content": "An invented institution. Its pictures are drawn by code."},
            "photosurl": {"_content": HOME},
            "profileurl": {"_content": f"https://www.flickr.com/people/{ALIAS}/"},
            "mobileurl": {"_content": HOME},
            "photos": {
                "firstdatetaken": {"_content": min(photo.taken for photo in stream.photos)},
                "firstdate": {"_content": str(oldest.uploaded)},
                "count": {"_content": len(stream.photos)},
            },
        }
    }


def _public_photos(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    _check_user(parameters)
    rows, counts = _page(list(stream.photos), parameters)
    extras = _extras(parameters)
    return {"photos": {**counts, "photo": [{"owner": NSID, **entry(photo, extras, host)} for photo in rows]}}


def _album_photos(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    _check_album(stream, parameters)
    rows, counts = _page(_numbered(stream, stream.album.photos), parameters)
    extras = _extras(parameters)
    primary = str(stream.album.photos[0])
    photos = [
        {**entry(photo, extras, host), "isprimary": "1" if str(photo.number) == primary else "0"} for photo in rows
    ]
    body = {"id": str(stream.album.number), "primary": primary, "owner": NSID, "ownername": OWNER, "photo": photos}
    return {"photoset": {**body, **counts, "per_page": counts["perpage"], "title": stream.album.title}}


def _gallery_photos(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    if parameters.get("gallery_id") != str(stream.gallery.number):
        raise Fail(1, "Invalid gallery ID")
    rows, counts = _page(_numbered(stream, stream.gallery.photos), parameters)
    extras = _extras(parameters)
    primary = stream.gallery.photos[0]
    photos = [
        {"owner": NSID, **entry(photo, extras, host), "is_primary": int(photo.number == primary), "has_comment": 0}
        for photo in rows
    ]
    return {"photos": {**counts, "photo": photos}}


def _pool_photos(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    if parameters.get("group_id") != stream.group.nsid:
        raise Fail(1, "Group not found")
    rows, counts = _page(_numbered(stream, stream.group.photos), parameters)
    extras = _extras(parameters)
    photos = [
        {"owner": NSID, **entry(photo, extras, host), "ownername": OWNER, "dateadded": str(photo.uploaded + 3600)}
        for photo in rows
    ]
    return {"photos": {**counts, "photo": photos}}


def _search(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    rows, counts = _page(found(stream, parameters), parameters, SEARCH_CAP)
    extras = _extras(parameters)
    return {"photos": {**counts, "photo": [{"owner": NSID, **entry(photo, extras, host)} for photo in rows]}}


def _album(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    _check_album(stream, parameters)
    count = len(stream.album.photos)
    counts = {"photos": count, "count_photos": str(count), "count_videos": 0}
    return {"photoset": {**_album_facts(stream), "owner": NSID, "username": OWNER, **counts}}


def _albums(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    _check_user(parameters)
    facts = {**_album_facts(stream), "photos": str(len(stream.album.photos)), "videos": 0}
    album = {**facts, "needs_interstitial": 0, "visibility_can_see_set": 1}
    return {"photosets": {"cancreate": 0, "page": 1, "pages": 1, "perpage": 1, "total": 1, "photoset": [album]}}


def _album_facts(stream: Stream) -> dict[str, Any]:
    album = stream.album
    primary = next(photo for photo in stream.photos if photo.number == album.photos[0])
    return {
        "id": str(album.number),
        "primary": str(primary.number),
        "secret": primary.secret,
        "server": primary.server,
        "farm": 66,
        "count_views": "0",
        "count_comments": "0",
        "title": {"_content": album.title},
        "description": {"_content": album.description},
        "can_comment": 0,
        "date_create": str(primary.uploaded),
        "date_update": str(stream.photos[0].uploaded),
    }


def _sizes(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    photo = _photo(stream, parameters)
    sizes = [
        {
            "label": offer.label,
            "width": offer.width,
            "height": offer.height,
            "source": host + offer.path,
            "url": f"{HOME}{photo.number}/sizes/{offer.letter}/",
            "media": "photo",
        }
        for offer in offers(photo, listed=False)
    ]
    if photo.is_video:
        film = {"label": "Site MP4", "width": photo.width, "height": photo.height, "media": "video"}
        page = f"{HOME}{photo.number}/"
        sizes.append({**film, "source": f"{page}play/site/{photo.secret}/", "url": page})
    allowed = int(photo.original_offered)
    return {"sizes": {"canblog": 0, "canprint": 0, "candownload": allowed, "size": sizes}}


def _info(stream: Stream, parameters: Mapping[str, str], host: str) -> dict[str, Any]:
    photo = _photo(stream, parameters)
    person = {"nsid": NSID, "username": OWNER, "realname": "", "location": None, "path_alias": ALIAS}
    taken = {"taken": photo.taken, "takengranularity": photo.granularity, "takenunknown": unknown(photo)}
    tags = [
        {"id": f"1-{photo.number}-{i}", "author": NSID, "raw": tag, "_content": tag, "machine_tag": 0}
        for i, tag in enumerate(photo.tags)
    ]
    tags += [
        {"id": f"1-{photo.number}-m{i}", "author": NSID, "raw": tag, "_content": tag, "machine_tag": 1}
        for i, tag in enumerate(photo.machine_tags)
    ]
    page = {"type": "photopage", "_content": f"{HOME}{photo.number}/"}
    return {
        "photo": {
            "id": str(photo.number),
            "secret": photo.secret,
            "server": photo.server,
            "farm": 66,
            "dateuploaded": str(photo.uploaded),
            "isfavorite": 0,
            "license": photo.license,
            "safety_level": "0",
            "rotation": 0,
            "owner": {**person, "iconserver": "0", "iconfarm": 0},
            "title": {"_content": photo.title},
            "description": {"_content": photo.description},
            "visibility": {"ispublic": 1, "isfriend": 0, "isfamily": 0},
            "dates": {"posted": str(photo.uploaded), **taken, "lastupdate": str(photo.updated)},
            "views": str(photo.views),
            "editability": {"cancomment": 0, "canaddmeta": 0},
            "publiceditability": {"cancomment": 1, "canaddmeta": 0},
            "usage": {"candownload": int(photo.original_offered), "canblog": 0, "canprint": 0, "canshare": 1},
            "comments": {"_content": "0"},
            "notes": {"note": []},
            "people": {"haspeople": 0},
            "tags": {"tag": tags},
            **({} if photo.place is None else {"location": geo(photo)}),
            "urls": {"url": [page]},
            "media": "video" if photo.is_video else "photo",
        }
    }


METHODS: dict[str, Callable[[Stream, Mapping[str, str], str], dict[str, Any]]] = {
    "flickr.urls.lookupUser": _lookup_user,
    "flickr.urls.lookupGroup": _lookup_group,
    "flickr.people.findByUsername": _find_by_username,
    "flickr.people.getInfo": _person,
    "flickr.people.getPublicPhotos": _public_photos,
    "flickr.photosets.getPhotos": _album_photos,
    "flickr.galleries.getPhotos": _gallery_photos,
    "flickr.groups.pools.getPhotos": _pool_photos,
    "flickr.photos.search": _search,
    "flickr.photosets.getInfo": _album,
    "flickr.photosets.getList": _albums,
    "flickr.photos.getSizes": _sizes,
    "flickr.photos.getInfo": _info,
}


def _extras(parameters: Mapping[str, str]) -> set[str]:
    return set(parameters.get("extras", "").split(","))


def _page(
    photos: list[DemoPhoto], parameters: Mapping[str, str], cap: int | None = None
) -> tuple[list[DemoPhoto], dict[str, Any]]:
    """The photos of the page asked for, and what the answer says of the paging.

    Of more photos than `cap`, pages past it are its last one again, though the total and the pages are the true ones.
    """
    size = max(1, min(500, _number(parameters, "per_page", 100)))
    page = max(1, _number(parameters, "page", 1))
    number = page
    if cap is not None and len(photos) > cap:
        photos, total = photos[:cap], len(photos)
        number = min(page, -(-cap // size))
    else:
        total = len(photos)
    rows = photos[(number - 1) * size : number * size]
    return rows, {"page": page, "pages": -(-total // size), "perpage": size, "total": total}


def _numbered(stream: Stream, numbers: tuple[int, ...]) -> list[DemoPhoto]:
    by_number = {photo.number: photo for photo in stream.photos}
    return [by_number[number] for number in numbers]


def _number(parameters: Mapping[str, str], name: str, default: int) -> int:
    text = parameters.get(name, "")
    return int(text) if text.isdecimal() else default


def _check_user(parameters: Mapping[str, str]) -> None:
    if parameters.get("user_id") != NSID:
        raise Fail(1, "User not found")


def _check_album(stream: Stream, parameters: Mapping[str, str]) -> None:
    if parameters.get("photoset_id") != str(stream.album.number) or parameters.get("user_id", NSID) != NSID:
        raise Fail(1, "Photoset not found")


def _photo(stream: Stream, parameters: Mapping[str, str]) -> DemoPhoto:
    for photo in stream.photos:
        if str(photo.number) == parameters.get("photo_id") and photo.trouble not in ("gone_404", "gone_410"):
            return photo
    raise Fail(1, "Photo not found")
