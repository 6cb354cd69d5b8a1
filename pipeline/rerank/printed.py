"""Both orders of a service's results for people, as Rich renderables."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.rerank import Place, Reranked, Unseen, credit
from pipeline.sources.unsplash import Offer

LONGEST = 100  # characters of a title: what photographers write of a picture may be an essay


def reranked(found: Reranked, query: str, k: int) -> RenderableType:
    """`tintype rerank` for people: side by side, the first `k` of each order."""
    head = Text(f"“{query}” on Unsplash, by the cosine with “{found.text}”", style="bold")
    table = Table(box=None, pad_edge=False)
    for column in ("", "Unsplash's order", "", "ours", "cosine"):
        table.add_column(column, justify="left" if column in ("Unsplash's order", "ours") else "right", overflow="fold")
    for theirs, ours in zip(found.theirs[:k], found.ours[:k], strict=True):
        left = told(theirs.seen.offer, f"now {theirs.rank}")
        right = told(ours.seen.offer, f"{moved(ours)}, by Unsplash {ours.seen.service_rank}")
        table.add_row(str(theirs.seen.service_rank), left, str(ours.rank), right, f"{ours.cosine:.3f}")
    shown = [head, table] if found.ours else [head, Text("  none of its pictures could be had")]
    if not (found.ours or found.pool.unseen):
        shown = [head, Text("  Unsplash finds nothing")]
    lines = [agreement(found)] if found.ours else []
    for one in found.pool.unseen:
        said = f"not seen, by Unsplash {one.service_rank}: {title(one.offer)} ({why(one)})"
        lines.append(f"{said}, {credit(one.offer)}, {one.offer.photo.page_url}")
    return Group(*shown, *(Text(line, style="dim") for line in lines if line))


def told(offer: Offer, place: str) -> Text:
    """A result in a cell: its title, its place in the other order, whose it is, the way there."""
    said = Text(title(offer)).append(f"  {place}\n{credit(offer)}", style="dim")
    return said.append(f"\n{offer.photo.page_url}", style="dim")


def title(offer: Offer) -> str:
    said = offer.photo.title or offer.photo.photo_id
    if len(said) <= LONGEST:
        return said
    # At the end of a word, where there is one: not all languages have spaces.
    return (said[: LONGEST - 1].rpartition(" ")[0] or said[: LONGEST - 2]) + " …"


def moved(place: Place) -> str:
    """ "↑ 6", "↓ 2", "=": how far the model moved it."""
    return f"{'↑' if place.moved > 0 else '↓'} {abs(place.moved)}" if place.moved else "="


def agreement(found: Reranked) -> str:
    """How far both orders agree; "" where there is nothing to tell."""
    if found.kendall is None or found.spearman is None:
        return ""
    return (
        f"Both orders of {len(found.ours)} agree to Kendall's τ {found.kendall:.2f}, Spearman's ρ {found.spearman:.2f} "
        "(1: alike, 0: unrelated, -1: reversed)."
    )


def why(one: Unseen) -> str:
    """Why the model did not see a result."""
    return f"{one.reason}: {one.detail}"
