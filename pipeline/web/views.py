"""What the templates show: plain values, made of answers, photos and facets. Nothing here is HTML but the formula."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from pipeline import boxes, page, words
from pipeline.contact_sheet import UNSTATED, alt, dated, scores
from pipeline.facts import reading
from pipeline.photo import UserError
from pipeline.search import Answer, Picture, hits, in_words
from pipeline.sources.licences import is_restricted
from pipeline.web import dropped
from pipeline.web.params import NO_LICENCE, Params
from pipeline.web.reranker import Question
from pipeline.web.service import SIZES, Found, Missing, Service

SMALL = 240  # pixels, long edge: thumbnails in the form and in formulas
SAMPLE, WALL, TRIES, TAGS = 120, 12, 6, 14  # titles looked at, photos, searches and tags of the first page
GRANULARITY = "date_granularity"
LEAST = 0.01  # probability of a label that is shown
KS = (12, 24, 48, 100)  # how many photos the form offers to show
FILTERS = ("after", "before", "license", "tag", "has", "where", "collapse", "of")
MARKED = ("plus", "minus", "after", "before", "tag", "has", "where")  # fields that show an error of theirs
DEFAULTS = {"mode": "vector", "scale": "1", "k": "24"}
HOME = ("photo_id", "title", "caption", "caption_model", "caption_by", "date_taken", GRANULARITY, "owner", "page_url",
        "license_url", "license_name")  # fmt: skip


def address(params: Params) -> str:
    """Where the page says what this search finds."""
    said = params.address()
    return f"/?{said}" if said else "/"


def from_picture(params: Params, name: str) -> Params:
    """A search by a picture, within the same photos."""
    return replace(params, q=None, image=name, plus=None, minus=None, scale=1.0, mode="vector")


def archive(service: Service) -> dict[str, str]:
    build = service.builds[0]
    first, last = service.facets()["years"]
    years = f", {first}–{last}" if first and first != last else f", {first}" if first else ""
    made = dated(build.card["created_at"], "day")
    return {"name": service.name, "told": f"{build.card['photos']:,} photos{years}, indexed {made}"}


def notice(shown: Iterable[Mapping[str, Any]]) -> str | None:
    """What Flickr wants to be said where photos of it are shown."""
    return page.FLICKR_NOTICE if any(photo["photo_id"].startswith("flickr:") for photo in shown) else None


# --- the form ---------------------------------------------------------------------------------------------------------


def parsed(given: Mapping[str, str]) -> Params:
    """What an address asks for. Words typed beside a picture take its place. Raises UserError."""
    return Params.parse(
        {name: value for name, value in given.items() if name != "image" or not given.get("q", "").strip()}
    )


def form(
    service: Service,
    given: Mapping[str, str],
    params: Params,
    error: UserError | None = None,
    found: Found | None = None,
) -> dict[str, Any]:
    """What ask.html shows: what was typed, right or wrong, and what there is to choose from."""
    typed = {field.name: given.get(field.name, "") for field in fields(Params)}
    typed = {name: value or DEFAULTS.get(name, "") for name, value in typed.items()}
    named = {picture.name: picture for picture in found.answer.pictures} if found else {}
    filters = sum(bool(typed[name]) for name in FILTERS)
    return {
        "typed": typed,
        "wrong": wrong(error),
        "start": _start(service, params, named.get(params.image or "")) if params.image else None,
        "terms": {name: _term(service, named.get(typed[name])) for name in ("plus", "minus")},
        "open": {"arithmetic": bool(typed["plus"] or typed["minus"]), "filters": filters, "count": filters},
        "ks": sorted({*KS, params.k}),
        "licences": _licences(service),
        "tags": service.facets()["tags"],
        "objects": service.facets()["objects"],
        "ofs": _embeddings(service),
        "copies": service.copies_known(),
        "columns": service.columns(),
        "kept": address(replace(params, q=None, image=None, plus=None, minus=None, scale=1.0, mode="vector")),
    }


def wrong(error: UserError | None) -> dict[str, str]:
    """What is wrong, and the field that it is about: "q" is the search box, "form" none that can be marked."""
    if error is None:
        return {"field": "", "said": ""}
    said = str(error).replace("--where", "where").partition(" (columns: ")[0]
    first = said.replace("this filter", "where", 1).removeprefix("cannot use ").partition("=")[0].split()[0].rstrip(":")
    # Others are told of below the search box, which is not to blame for them.
    field = first if first in MARKED else "q" if first in ("q", "search") else "form"
    return {"field": field, "said": said.removeprefix("q: ")}


def _start(service: Service, params: Params, picture: Picture | None) -> dict[str, Any]:
    """The picture that a search starts from."""
    shown = _term(service, picture) or {"thumbnail": None, "alt": ""}
    name = _named(service, picture) if picture else "a picture that is not here"
    return shown | {"shown": name, "without": address(replace(params, image=None))}


def _term(service: Service, picture: Picture | None) -> dict[str, Any] | None:
    if picture is None:
        return None
    return {"thumbnail": thumbnail(service, picture), "alt": _named(service, picture)}


def _embeddings(service: Service) -> list[str]:
    """The names of those that are searched here, and all of them together."""
    names = [build.card["of"] for build in service.builds]
    return names if len(names) == 1 else [*names, ",".join(names)]


def _licences(service: Service) -> list[dict[str, Any]]:
    """What there is to choose from; names that stand for one URL stand together, as it is all that tells them apart."""
    found: dict[str, dict[str, Any]] = {}
    for url, name, number in service.facets()["licenses"]:
        said = found.setdefault(url or name or NO_LICENCE, {"names": [], "photos": 0})
        said["names"].append(name or url or "none stated")
        said["photos"] += number
    return [{"value": value, "name": " or ".join(s["names"]), "photos": s["photos"]} for value, s in found.items()]


# --- hits -------------------------------------------------------------------------------------------------------------


def photo_card(photo: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """A photo with its rights and the way home, and where one goes from it; `params` is the search it is shown in."""
    name, photo_id = photo["title"] or photo["photo_id"], photo["photo_id"]
    combines = params.asks and params.mode != "words"
    return {
        **{key: photo[key] for key in ("photo_id", "row_id", "owner", "page_url")},
        **{key: photo[key] for key in ("caption", "caption_by", "caption_model")},
        "name": name,
        "alt": alt(name, photo["caption"], photo["caption_by"]),
        "href": f"/photo/{quote(photo_id, safe=':/')}",
        "dated": dated(photo["date_taken"], photo[GRANULARITY]) if photo["date_taken"] else "",
        "licence": photo["license_name"] or photo["license_url"] or UNSTATED,
        "licence_link": photo["license_url"] if page.host(photo["license_url"]) else None,
        "home": page.host(photo["page_url"]),
        "like": address(from_picture(params, photo_id)),
        "plus": address(replace(params, plus=photo_id)) if combines else None,
        "minus": address(replace(params, minus=photo_id)) if combines else None,
    }


def boxed(photo: Mapping[str, Any], edge: int) -> Markup:
    """The objects of a photo, to lie over its thumbnail of this size."""
    return Markup(boxes.drawn(photo["objects"], photo["width"], photo["height"], edge))


def cards(found: Found, params: Params) -> list[dict[str, Any]]:
    """The hits of an answer, best first."""
    known: dict[int, dict[str, Any]] = {}
    for build in reversed(found.builds):
        known |= build.facts([hit.row_id for hit in found.answer.hits], [GRANULARITY])
    return [
        photo_card(asdict(hit) | known[hit.row_id], params)
        | {
            "rank": hit.rank,
            "score": hits.score(hit),
            "score_is": found.answer.score(),
            "copies": hits.copies(hit),
            "label": hits.label(hit),
            "objects": hits.objects(hit),
            "boxes": boxed(asdict(hit), SIZES[1]),
            "ranks": ", ".join(f"{_ranking(found, name)} {rank}" for name, rank in hit.ranks.items()),
        }
        for hit in found.answer.hits
    ]


def _ranking(found: Found, name: str) -> str:
    """What a ranking is called; that by vectors is by pictures, unless there are several of them."""
    return "pictures" if name == found.vector_name and len(found.builds) == 1 else name


def result(service: Service, params: Params, found: Found) -> dict[str, Any]:
    """An answer as results.html shows it."""
    answer, number = found.answer, len(found.answer.hits)
    total = found.builds[0].card["photos"] if answer.among is None else answer.among
    shown = cards(found, params)
    title = in_words(answer, picture=lambda picture: _named(service, picture))
    kept = "" if answer.among is None else " that the filters keep"
    took = f"{found.milliseconds:.0f} ms" if found.milliseconds < 1000 else f"{found.milliseconds / 1000:.1f} s"
    best = "all" if number == total else "the best"
    return {
        "title": title,
        "formula": formula(service, answer),
        "address": params.address(),
        "elsewhere": Question(params.q, params.q, params.of).address() if service.reranker and params.q else None,
        "said": f"{_photos(number)} for {title}",
        "told": f"{number:,} of {_photos(total)}{kept}, {best} by {answer.score()}, in {took}",
        "hits": shown,
        "notice": notice(shown),
        "scores": scores(found.builds, [answer]),
        "why_none": _why_none(params, found),
        "without_filters": address(_unfiltered(params)) if answer.query.where else None,
    }


def _photos(number: int) -> str:
    return f"{number:,} photo{'' if number == 1 else 's'}"


def _unfiltered(params: Params) -> Params:
    return replace(params, after=None, before=None, license=None, tag=None, has=None, where=None)


def _why_none(params: Params, found: Found) -> str:
    total = _photos(found.builds[0].card["photos"])
    if found.answer.among == 0:
        return f"The filters keep none of {total}."
    if params.mode == "words":
        return "No title, description, tag or caption holds these words. Look at pictures instead: they need no words."
    return "No photo answers this."


def formula(service: Service, answer: Answer) -> Markup:
    """The query as a formula, its photos as pictures."""

    def in_quotes(said: str) -> str:
        return Markup('<span dir="auto">“{}”</span>').format(said)

    def picture(shown: Picture) -> str:
        source = thumbnail(service, shown)
        if source is None:
            return Markup("<i>{}</i>").format(_named(service, shown))
        return Markup('<img src="{}" alt="{}">').format(source, _named(service, shown))

    alone = answer.query.image and not answer.query.plus and not answer.query.minus
    # What in_words adds to these are signs and a number.
    said = Markup(in_words(answer, words=in_quotes, picture=picture))
    return Markup('<span class="like">like</span> {}').format(said) if alone else said


def thumbnail(service: Service, picture: Picture) -> str | None:
    """The address of a small copy of a picture that a query names; None for a dropped one long gone."""
    if picture.row_id is not None:
        return f"/thumbnails/{picture.row_id}.jpg?size={SMALL}"
    digest = dropped.digest(picture.name)
    try:
        service.picture(digest)
    except Missing:
        return None
    return f"/pictures/{digest}.jpg"


def _named(service: Service, picture: Picture) -> str:
    """What a picture is called: the title of a photo, else that it is the user's own."""
    if picture.row_id is None:
        return "your picture"
    title = service.builds[0].facts([picture.row_id], ["title"])
    return (title[picture.row_id]["title"] if title else None) or picture.name


# --- the first page ---------------------------------------------------------------------------------------------------


def home(service: Service) -> dict[str, Any]:
    """What is in the archive: searches made of its titles and tags, and a dozen photos that are the same each time."""
    build = service.builds[0]
    hidden = service.hidden()
    columns = ", ".join(("row_id", *HOME))
    # By their hashes: rows of one part, and photos of one day, are alike.
    sql = f"SELECT {columns} FROM photos ORDER BY hash(row_id) LIMIT {SAMPLE}"
    with reading(build.folders[-1]):
        rows = build.database.cursor().execute(sql).fetchall()
    photos = [dict(zip(("row_id", *HOME), row, strict=True)) for row in rows if row[0] not in hidden]
    told = archive(service)
    of = f"{_photos(build.card['photos'])} of {told['name']}"
    tags = [tag for tag, number in service.facets()["tags"] if ":" not in tag and number < build.card["photos"]]
    return {
        "told": of,
        "tries": [(text, address(Params(q=text))) for text in _tries(photos)],
        "tags": [(tag, address(tagged(tag))) for tag in tags[:TAGS]],
        "wall": [photo_card(photo, Params()) for photo in photos[:WALL]],
    }


def tagged(tag: str) -> Params:
    """The photos with a tag, those first that show what it says."""
    return Params(q=tag, tag=tag)


def _tries(photos: Iterable[Mapping[str, Any]]) -> list[str]:
    """Titles that read as searches: without brackets, and what stands in parentheses at their end."""
    found: dict[str, None] = {}
    for photo in photos:
        title = re.sub(r"(\s*\([^()]*\))+$", "", photo["title"] or "").replace("[", "").replace("]", "").strip(" .")
        if 10 <= len(title) <= 48 and " " in title:
            found[title] = None
    return list(found)[:TRIES]


# --- one photo --------------------------------------------------------------------------------------------------------


def photo(told: Mapping[str, Any]) -> dict[str, Any]:
    """All that is said of a photo, as photo.html shows it; `told` as from `Service.photo`."""
    facts = {
        "Taken": dated(told["date_taken"], told[GRANULARITY]) if told["date_taken"] else None,
        "By": told["owner"],
        "Uploaded": _day(told["uploaded_at"]),
        "Place": _place(told["latitude"], told["longitude"]),
        "People wrote": "; ".join(told["human_captions"] or ()),
        "Original": f"{told['source_width']:,} × {told['source_height']:,} pixels" if told["source_width"] else None,
        "Fetched": _day(told["fetched_at"]),
        "Id": told["photo_id"],
    }
    tags = [tag for tag in told["tags"] or () if tag not in (told["machine_tags"] or ())]
    return photo_card(told, Params()) | {
        "description": [line.strip() for line in words.plain(told["description"] or "").splitlines() if line.strip()],
        "restricted": is_restricted(told["license_url"]),
        "observed": _day(told["rights_observed_at"]),
        "credit": told["credit"],
        "facts": [(name, value) for name, value in facts.items() if value],
        "tags": [(tag, address(tagged(tag))) for tag in tags],
        "labels": [
            (label["label"], f"{label['probability']:.0%}", address(labelled(label["label"])))
            for label in told["labels"] or ()
            if label["probability"] >= LEAST
        ],
        "labels_model": told["labels_model"],
        "objects": _objects(told["objects"]),
        "objects_model": told["objects_model"],
        "boxes": boxed(told, SIZES[2]),
    }


def _objects(found: Iterable[Mapping[str, Any]] | None) -> list[tuple[str, str, str]]:
    """What is seen in a photo, each thing once: its name, its scores, and a search for photos that show it."""
    scores: dict[str, list[str]] = {}
    for one in found or ():
        scores.setdefault(one["label"], []).append(f"{one['score']:.2f}")
    return [(name, ", ".join(some), address(Params(q=name, has=name))) for name, some in scores.items()]


def labelled(label: str) -> Params:
    """The photos of which this is the likeliest label."""
    return Params(q=label, where="labels[1].label = '{}'".format(label.replace("'", "''")))


def _day(moment: Any) -> str | None:
    return dated(str(moment), "day") if moment else None


def _place(latitude: float | None, longitude: float | None) -> str | None:
    if latitude is None or longitude is None:
        return None
    return (
        f"{abs(latitude):.4f}° {'N' if latitude >= 0 else 'S'}, {abs(longitude):.4f}° {'E' if longitude >= 0 else 'W'}"
    )
