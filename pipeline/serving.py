"""The command that serves an archive as a page: serve."""

import os
import sys
from typing import Annotated

import typer

from pipeline import builds
from pipeline.console import ArchiveName, archive_url, preferred
from pipeline.photo import UserError

TOKEN = "TINTYPE_TOKEN"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve_command(
    archive: ArchiveName,
    host: Annotated[str, typer.Option(help="The address to listen on; any but this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8080,
    of: Annotated[
        list[str], typer.Option(help="Which embeddings' index; all there are, unless given. The first is the default.")
    ] = [],  # noqa: B006
    token: Annotated[
        bool, typer.Option("--token", help=f"Ask for the token in {TOKEN} on this machine's own address too.")
    ] = False,
) -> None:
    """Search by a page in the browser, and by an API, until Ctrl-C."""
    known = os.environ.get(TOKEN)
    if (token or host not in LOOPBACK) and not known:
        raise UserError(
            f"whoever reaches {host} could search this archive: set {TOKEN} in the environment to a long random text, "
            "which they then need, or leave out --host and --token"
        )
    from pipeline.web import server

    url = archive_url(archive)
    first = preferred(archive)
    names = of or ([first, *builds.indexed(url)] if first else [])
    server.serve(url, names, host, port, known if token or host not in LOOPBACK else None, _say)


def _say(url: str, photos: int) -> None:
    print(f"tintype: {photos:,} photos at {url} (Ctrl-C ends it)", file=sys.stderr, flush=True)
