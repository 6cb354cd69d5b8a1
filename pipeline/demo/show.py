"""`tintype demo`: the whole thing on the demo photostream, every step of it the real one."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline import builds, contact_sheet, search, terminal
from pipeline.archive import Archive
from pipeline.config import Settings, parse
from pipeline.demo.scenes import OBJECTS
from pipeline.demo.server import KEY, SECRET, Served, serve
from pipeline.demo.stream import ALIAS, demo_stream
from pipeline.models import store
from pipeline.photo import UserError
from pipeline.progress import Progress
from pipeline.run import Summary, run
from pipeline.search import Query
from pipeline.status import status
from pipeline.work import STEPS

PORT = 8765
MODEL: dict[str, Any] = {"model": f"local-dir:{Path(__file__).parent / 'model'}"}


def settings(archive: str, api_url: str, **changed: Any) -> Settings:
    """The demo's configuration: what conf/demo.yaml says, with an archive and a server of one's own."""
    return parse(
        {
            "archive": archive,
            "sources": [{"kind": "flickr", "user": ALIAS, "api_url": api_url, "api_rate": 50}],
            "images": {"min_side": 288, "rate": None},
            "embeddings": {"demo": MODEL},
            "captions": {"demo": MODEL},
            "labels": {"things": MODEL | {"classes": OBJECTS, "templates": ["a {}"]}},
            "run": {"part_size": 120},
            **changed,
        }
    )


def show(folder: str, out: Console, err: Console) -> int:
    """Run the demo in `folder`, print what it gives, and return the exit status."""
    archive = Path(folder)
    out.print("A photostream drawn by code, served on loopback as Flickr serves one; a tiny CoCa reads it.")
    with Progress(err) as progress:
        done = make(folder, progress)
    out.print(terminal.summary(done, folder, ()), highlight=False)
    out.print(terminal.status(status(Archive.open(folder))), highlight=False)
    out.print()
    build = builds.open_build(folder)
    made = build.card["identity"]
    answers = search.search_many(
        build,
        example_queries(build),
        lambda: store.load(folder, made["model"], made["pretrained"], made["checkpoint_sha256"]),
    )
    for answer in answers:
        out.print(terminal.hits(answer), highlight=False)
    sheet = archive.parent / "demo.html"
    sheet.write_text(contact_sheet.render([build], answers), encoding="utf-8")
    out.print(f"The contact sheet of these searches: {sheet}", highlight=False)
    out.print(f'Search it yourself: tintype search {folder} "a green windmill in the snow"', highlight=False)
    return done.exit_status(0.01)


def make(folder: str, progress: Progress, runner: str = "ray") -> Summary:
    """Make the demo's archive in `folder`, or what is missing of it."""
    os.environ |= {"FLICKR_API_KEY": KEY, "FLICKR_API_SECRET": SECRET}
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    with served(Path(folder).parent / "demo-server") as server:
        return run(settings(folder, server.api_url, run={"runner": runner, "part_size": 120}), progress, STEPS)


@contextlib.contextmanager
def served(cache: Path) -> Iterator[Served]:
    """The demo's photostream at its own port: a run that was stopped finds its pictures where they were listed."""
    try:
        with serve(demo_stream(), cache, PORT) as running:
            yield running
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise UserError(f"port {PORT} is taken, perhaps by another demo: wait for it, or stop it") from error


def example_queries(build: builds.Build) -> list[Query]:
    """Words, arithmetic on a photo, and a photo itself."""
    return [
        Query(text="a red sailboat"),
        Query(image=first_photo(build, "red sailboat"), plus="blue", minus="red"),
        Query(image=first_photo(build, "yellow windmill")),
    ]


def first_photo(build: builds.Build, thing: str) -> str:
    """The id of the first photo whose title names this thing and no other."""
    row_ids = build.matching(f"title ILIKE '%{thing}%' AND title NOT ILIKE '% and %'")
    if not len(row_ids):
        raise UserError(f"{build.archive.url} is not the demo's archive: it holds no {thing}; choose another --folder")
    first = int(row_ids.min())
    return build.facts([first], ["photo_id"])[first]["photo_id"]
