"""Write docs/cli.md from the command line's own help: python docs/make_cli.py

`tests/docs/test_cli.py` fails when the page is out of date.
"""

from pathlib import Path
from typing import Any

import typer

from pipeline.cli import app

PAGE = Path(__file__).parent / "cli.md"

HEAD = """\
# The command line

<!-- Made by docs/make_cli.py from the commands' own help. Edit pipeline/cli.py, not this page. -->

CONF is a YAML configuration (`docs/config.md`); ARCHIVE is a configuration, or an archive's path or URL. Secrets come
from the environment only. Results go to standard output, progress and warnings to standard error.

| exit status | meaning |
|---|---|
| 0 | all that can be done is done; gone photos and permanent failures are outcomes, not errors |
| 1 | running again may help: failures that may pass above `run.max_failed`, a part given up, lost workers, full disks |
| 2 | the request is wrong, or a source refuses: one line says why and what to do |
| 130 | interrupted; the same command goes on where it stopped |

Of `verify`, 1 says that it found problems. `docs/running.md` says what to do about each status, `docs/tables.md`
describes what `--json` prints.
"""


def commands() -> dict[str, Any]:
    """ "tintype run" → the command, in the order of the help; "tintype" itself first."""
    group: Any = typer.main.get_command(app)
    return {"tintype": group} | {f"tintype {name}": command for name, command in group.commands.items()}


def help_of(name: str, command: Any) -> str:
    """What `NAME --help` prints, 100 characters wide."""
    context = command.context_class(command, info_name=name, terminal_width=100, max_content_width=100)
    return command.get_help(context)


def page() -> str:
    """The whole of docs/cli.md."""
    sections = [f"## {name}\n\n```text\n{help_of(name, command)}\n```\n" for name, command in commands().items()]
    return "\n".join([HEAD, *sections])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
