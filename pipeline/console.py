"""What the commands of the command line share: their consoles, and the arguments that several of them take."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline import builds, config
from pipeline.builds import Build
from pipeline.photo import UserError

# Where nobody looks on, in a file or a pipe, lines are not broken at the 80 columns that Rich takes a terminal to have.
PLAIN_WIDTH = 240
out = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(width=None if sys.stderr.isatty() else PLAIN_WIDTH, stderr=True)

Conf = Annotated[str, typer.Argument(metavar="CONF", help="A YAML configuration; see conf/ and docs/config.md.")]
ArchiveName = Annotated[str, typer.Argument(metavar="ARCHIVE", help="A configuration, or an archive's path or URL.")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: run.runner=local.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]


def archive_url(name: str) -> str:
    """The URL of what the user named: a configuration's archive, or the URL itself."""
    return config.archive_of(name) if name.endswith((".yaml", ".yml")) else name


def preferred(name: str) -> str | None:
    """The embeddings whose index a configuration asks, where its archive has several and the user names none."""
    url = archive_url(name)
    return config.index_of(name) if url != name and len(builds.indexed(url)) > 1 else None


def index_of(name: str, of: str | None = None) -> Build:
    """The index that the user asks: of the embeddings named, or preferred, else the only one. Raises UserError."""
    return builds.open_build(archive_url(name), of or preferred(name))


def in_a_folder(path: str | None) -> str | None:
    """A file that an option names, if its folder is there: nobody shall wait for what can then not be written.

    Raises UserError.
    """
    if path and not Path(path).absolute().parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {Path(path).parent}")
    return path


def file_option(help: str, *names: str) -> Any:
    """An option that names a file to be written."""
    return typer.Option(*names, metavar="FILE", callback=in_a_folder, help=help)


def write(path: str, data: str | bytes) -> None:
    """Write a file of the user's. Raises UserError."""
    try:
        Path(path).write_bytes(data.encode() if isinstance(data, str) else data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
