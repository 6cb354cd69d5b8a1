"""Boxes around what was found in a picture: an <svg> to lie over its <img>. No script, and no style of its own.

The drawing is as large as the thumbnail, in the same units. Whatever a page's rules let the <img> shrink to, they let
the drawing shrink to, so that both stay on each other.
"""

import zlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

COLOURS = 5  # of the palette; a label has the same one in all pictures
STYLE = """
.boxes { display: block; height: auto; min-width: 0; min-height: 0; pointer-events: none; }
.boxes rect { fill: none; stroke: currentColor; stroke-width: 2px; vector-effect: non-scaling-stroke;
  filter: drop-shadow(0 0 1px var(--paper)); }
.boxes text { fill: currentColor; stroke: var(--paper); stroke-width: .2em; stroke-linejoin: round; paint-order: stroke;
  font-family: var(--sans); font-weight: 600; }
.s1 { color: var(--series-1); } .s2 { color: var(--series-2); } .s3 { color: var(--series-3); }
.s4 { color: var(--series-4); } .s5 { color: var(--series-5); }
"""


def drawn(objects: Sequence[Mapping[str, Any]] | None, width: int | None, height: int | None, edge: int) -> str:
    """The objects of a picture of this size, as schemas.OBJECTS has them, over its thumbnail of this long edge.

    "" where there is nothing to draw. For those who do not see it, others say what it shows: it is hidden from them.
    """
    if not objects or not width or not height:
        return ""
    scale = min(1, edge / max(width, height))
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    letters = 12 + max(wide, high) / 80
    items = "".join(_drawn(found, wide, high, letters) for found in reversed(objects))  # the best comes to lie on top
    return (
        f'<svg class="boxes" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" font-size="{letters:.0f}" '
        f'aria-hidden="true">{items}</svg>'
    )


def _drawn(found: Mapping[str, Any], wide: int, high: int, letters: float) -> str:
    left, top, right, bottom = found["x0"] * wide, found["y0"] * high, found["x1"] * wide, found["y1"] * high
    # Where there is no room above the box, its name stands in it; on the right half it ends where the box ends.
    line = top - letters / 3 if top > 1.2 * letters else top + letters
    place = f'x="{right - 3:.1f}" text-anchor="end"' if found["x0"] > 0.5 else f'x="{left + 3:.1f}"'
    colour = zlib.crc32(found["label"].encode()) % COLOURS + 1
    return (
        f'<g class="s{colour}"><rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}"/><text {place} y="{line:.1f}">{escape(found["label"])} {found["score"]:.2f}'
        "</text></g>"
    )
