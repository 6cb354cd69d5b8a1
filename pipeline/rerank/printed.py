"""Both orders of a service's results for people, as Rich renderables."""

import textwrap

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.rerank import Place, Reranked, credit
from pipeline.sources.unsplash import Offer

LONGEST = 100  # characters of a title: what photographers write of a picture may be an essay


def reranked(found: Reranked, query: str, k: int) -> RenderableType:
    """`tintype rerank` for people: side by side, the first `k` of each order."""
    head = Text(f"“{query}” on Unsplash, by the cosine with “{found.text}”", style="bold")
    table = Table(box=None, pad_edge=False)
    for column in ("", "Unsplash's order", "cosine", "ours"):
        table.add_column(column, justify="right" if column in ("", "cosine") else "left", overflow="fold")
    for number, (theirs, ours) in enumerate(zip(found.theirs[:k], found.ours[:k], strict=True), 1):
        left = told(theirs.seen.offer, f"now {theirs.rank}")
        right = told(ours.seen.offer, f"{moved(ours)}, by Unsplash {ours.seen.service_rank}")
        table.add_row(str(number), left, f"{ours.cosine:.3f}", right)
    shown = [head, table] if found.ours else [head, Text("  none of its pictures could be had")]
    if not (found.ours or found.pool.unseen):
        shown = [head, Text("  Unsplash finds nothing")]
    return Group(*shown, *(Text(line, style="dim") for line in notes(found)))


def told(offer: Offer, place: str) -> Text:
    """A result in a cell: its title, its place in the other order, whose it is, the way there."""
    said = Text(title(offer)).append(f"  {place}\n{credit(offer)}", style="dim")
    return said.append(f"\n{offer.photo.page_url}", style="dim")


def title(offer: Offer) -> str:
    return textwrap.shorten(offer.photo.title or offer.photo.photo_id, LONGEST, placeholder=" …")


def moved(place: Place) -> str:
    """ "↑ 6", "↓ 2", "=": how far the model moved it."""
    return f"{'↑' if place.moved > 0 else '↓'} {abs(place.moved)}" if place.moved else "="


def notes(found: Reranked) -> list[str]:
    """How far both orders agree, and what is in neither."""
    lines = []
    if found.kendall is not None and found.spearman is not None:
        lines.append(
            f"both orders of {len(found.ours)} agree to Kendall's τ {found.kendall:.2f}, Spearman's ρ "
            f"{found.spearman:.2f} (1: alike, 0: unrelated, −1: reversed)"
        )
    for one in found.pool.unseen:
        lines.append(
            f"not seen, by Unsplash {one.service_rank}: {title(one.offer)} ({one.reason}: {one.detail}; "
            f"{credit(one.offer)}, {one.offer.photo.page_url})"
        )
    return lines
