"""What our HTML files have in common: one policy, one palette, links that lead only where a page may lead."""

import re
from html import escape
from urllib.parse import urlsplit

FLICKR_NOTICE = "This product uses the Flickr API but is not endorsed or certified by SmugMug, Inc."

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark; --paper: #faf8f3; --ink: #1e1b17; --soft: #6a6359; --rule: #dcd5c8; --mat: #efeae0;
  --link: #7b3a1c; --series-1: #7b3a1c; --series-2: #2f5d73; --series-3: #6b7a2e; --series-4: #b0812a;
  --series-5: #7a4a6e; --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua", Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #171512; --ink: #ece6dc; --soft: #a59c8f; --rule: #38332c; --mat: #26221d; --link: #e0a27f;
    --series-1: #e0a27f; --series-2: #8bbdd3; --series-3: #b9c77b; --series-4: #e2bf6f; --series-5: #caa0c0; } }
* { box-sizing: border-box; margin: 0; }
html { -webkit-text-size-adjust: 100%; }
body { background: var(--paper); color: var(--ink); font: 400 1rem/1.5 var(--serif); overflow-wrap: anywhere;
  max-width: 88rem; margin: 0 auto; padding: 0 clamp(1.25rem, 5vw, 4rem); }
a { color: inherit; text-decoration-color: var(--rule); text-underline-offset: .2em; text-decoration-thickness: 1px; }
a:hover { color: var(--link); text-decoration-color: currentColor; }
a:focus-visible { outline: 2px solid var(--link); outline-offset: 3px; border-radius: 1px; }
.masthead { display: flex; flex-wrap: wrap; justify-content: space-between; gap: .25rem 2rem; padding: 1.75rem 0 .9rem;
  border-bottom: 1px solid var(--rule); font: 400 .8125rem/1.5 var(--sans); color: var(--soft); }
.masthead h1 { font: inherit; letter-spacing: .04em; color: var(--ink); }
footer { margin-top: 4rem; padding: 1rem 0 3rem; border-top: 1px solid var(--rule); color: var(--soft);
  font: 400 .8125rem/1.6 var(--sans); }
footer p { max-width: 75ch; }
footer p + p { margin-top: .5rem; }
"""


def head(title: str, style: str) -> str:
    """A document up to the beginning of its body; `style` is added to what all have."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · Tintype</title><style>{STYLE}{style}</style></head><body>"
    )


def link(url: str | None, shown: str) -> str:
    """`shown` (HTML already) as a link, where `url` is one a page may lead to."""
    return f'<a href="{escape(url)}">{shown}</a>' if url and host(url) else shown


def host(url: str | None) -> str | None:
    """The host of an http(s) URL; None for anything else, such as javascript:."""
    if not url or not re.match(r"https?://", url):
        return None
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.") or None
    except ValueError:  # brackets that are no IPv6 address
        return None
