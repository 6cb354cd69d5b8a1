"""Stages small enough to test the runners with: they write one row a part, and misbehave where a test says so."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import schemas
from pipeline.archive import Archive
from pipeline.photo import UserError
from pipeline.pulse import Beat
from pipeline.work import Do, Shared, Stage

# What a stage does at a part, by part number: "raise", "die" (always), "die once", "linger", "tell", "refuse".
Trouble = dict[int, str]


def rows(part: int, text: str = "") -> pa.Table:
    row = {"row_id": part << schemas.ROW_BITS, "photo_id": f"test:{part}", "reason": text}
    return pa.Table.from_pylist([row], schemas.FORGOTTEN)


def write(archive: Archive, table: str, part: int) -> dict[str, Any]:
    receipt: dict[str, Any] = {"outcomes": {"fetched": 1}}
    archive.table(table).write(part, [rows(part)], receipt, schemas.FORGOTTEN)
    return receipt


def load(archive: Archive, target: str, trouble: Trouble, marks: str, shared: Shared) -> Do:
    def do(part: int) -> list[dict[str, Any]]:
        mark = Path(marks) / f"{target.replace('/', '-')}-{part}"
        with mark.open("a") as file:
            file.write(f"{os.getpid()}\n")
        what = trouble.get(part)
        if what == "raise":
            raise ValueError("a bad part")
        if what == "refuse":
            raise UserError("the whole run is wrong")
        if what == "die" or (what == "die once" and len(mark.read_text().splitlines()) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "die while writing":

            def half():  # type: ignore[no-untyped-def]
                yield rows(part)
                if len(mark.read_text().splitlines()) == 1:
                    os.kill(os.getpid(), signal.SIGKILL)

            archive.table(target).write(part, half(), {}, schemas.FORGOTTEN)
            return []
        if what == "tell":
            shared.hear(Beat("annotate" if "captions" in target else "fetch", part, 1, "here", 1, time.time(), 2, 0.0))
            time.sleep(2.5)  # the driver listens every second or two
        if what == "linger":
            time.sleep(1)
        return [write(archive, target, part)]

    return do


def stages(
    archive: Archive, marks: Path, fetching: Trouble | None = None, annotating: Trouble | None = None
) -> list[Stage]:
    """Two stages as in a real run: tasks that make `images` of `photos`, an actor that makes `captions/x` of these."""
    first = partial(load, archive, "images", fetching or {}, str(marks))
    second = partial(load, archive, "captions/x", annotating or {}, str(marks))
    return [
        Stage("fetch", "photos", ("images",), first),
        Stage("annotate", "images", ("captions/x",), second, device=True),
    ]
