"""Both orders of a service's results as one HTML file that needs nothing else: theirs left, ours right."""

from collections.abc import Sequence
from html import escape

from pipeline import imaging, page
from pipeline.contact_sheet import PHOTOS, UNSTATED, data_uri
from pipeline.rerank import Place, Reranked
from pipeline.rerank.printed import agreement, moved, title, why
from pipeline.sources.unsplash import Offer

THUMBNAIL = 320  # pixels, long edge: shown at about 200
STYLE = """
main > header { padding: clamp(2rem, 5vw, 3.5rem) 0 clamp(1.5rem, 3vw, 2.25rem); }
h2, .orders h3 { font-weight: 400; line-height: 1.25; }
h2 { font-size: clamp(1.6rem, 1.1rem + 2vw, 2.6rem); letter-spacing: -.01em; text-wrap: balance; max-width: 40ch; }
.orders { --between: clamp(2rem, 6vw, 5rem); display: grid; grid-template-columns: repeat(2, minmax(0, 1fr));
  gap: 0 var(--between); }
.orders > section + section { position: relative; }
.orders > section + section::before { content: ""; position: absolute; inset: 0 auto 0 calc(var(--between) / -2);
  border-left: 1px solid var(--rule); }
.orders h3 { font-size: 1.25rem; padding-bottom: 1.1rem; }
.orders .hits { gap: 1.75rem 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 10.5rem), 1fr)); }
.orders .mat { padding: .6rem; }
.orders h4 { font-weight: 400; font-size: 1rem; line-height: 1.3; }
.unseen { padding: 2.5rem 0 0 1.25rem; font: 400 .8125rem/1.6 var(--sans); color: var(--soft); }
.none { color: var(--soft); font-style: italic; }
@media print { .orders .hits { grid-template-columns: repeat(2, 1fr); } li { break-inside: avoid; } }
"""


def render(found: Reranked, query: str, model: str, k: int) -> str:
    """The first `k` of each order: a whole HTML document. `model`: what the model is called."""
    pictures = {
        place.seen.service_rank: data_uri(imaging.thumbnail(place.seen.data, THUMBNAIL))
        for place in (*found.ours[:k], *found.theirs[:k])
    }
    theirs = [_item(place, pictures, str(place.seen.service_rank), f"now {place.rank}") for place in found.theirs[:k]]
    ours = [_item(place, pictures, str(place.rank), moved(place), f"{place.cosine:.3f}") for place in found.ours[:k]]
    with_ = "" if found.text == query else f", by <span dir=auto>“{escape(found.text)}”</span>"
    lines = [
        f"The number beside a rank of ours is the cosine of picture and text in the space of {model}; an arrow says by "
        "how many places it moved.",
        agreement(found),
        "Photos from Unsplash, each its photographer's.",
    ]
    return (
        f"{page.head(f'“{query}” on Unsplash, in both orders', PHOTOS + STYLE)}"
        f'<div class="masthead"><h1>Re-ranked: Unsplash</h1><p>{escape(model)}</p></div><main>'
        f'<header><h2><span dir="auto">“{escape(query)}”</span>{with_}</h2></header>'
        f'<div class="orders">{_order("theirs", "Unsplash’s order", theirs)}{_order("ours", "Ours", ours)}</div>'
        f"{_unseen(found)}</main>"
        f"<footer>{''.join(f'<p>{escape(line)}</p>' for line in lines if line)}</footer></body></html>\n"
    )


def _order(name: str, head: str, items: Sequence[str]) -> str:
    body = f'<ol class="hits">{"".join(items)}</ol>' if items else '<p class="none">No picture.</p>'
    return f'<section aria-labelledby="{name}"><h3 id="{name}">{head}</h3>{body}</section>'


def _unseen(found: Reranked) -> str:
    """The results whose pictures could not be had, with the reason."""
    items = [
        f"<li>By Unsplash {one.service_rank}, not seen: "
        f"{page.link(one.offer.photo.page_url, escape(title(one.offer)))} ({escape(why(one))}), "
        f"{credited(one.offer)}</li>"
        for one in found.pool.unseen
    ]
    return f'<ul class="unseen">{"".join(items)}</ul>' if items else ""


def _item(place: Place, pictures: dict[int, str], *said: str) -> str:
    offer = place.seen.offer
    shown, home = escape(title(offer)), page.link(offer.photo.page_url, escape(title(offer)))
    places = "".join(f"<span>{escape(one)}</span>" for one in said)
    return (
        f'<li><article><div class="mat"><img src="{pictures[place.seen.service_rank]}" alt="{shown}"></div>'
        f'<p class="place">{places}</p><h4 dir="auto">{home}</h4>'
        f'<p class="facts">{credited(offer, "<br>")}</p></article></li>'
    )


def credited(offer: Offer, between: str = ", ") -> str:
    """The line of credit as HTML, with the links that Unsplash asks for, and the licence."""
    photo = offer.photo
    by = page.link(offer.owner_url, f"<bdi>{escape(photo.owner or 'somebody')}</bdi>")
    licence = photo.rights.license_name or UNSTATED
    rights = page.link(photo.rights.license_url, escape(licence))
    return f"Photo by {by} on {page.link(photo.page_url, 'Unsplash')}{between}{rights}"
