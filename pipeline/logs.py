"""What is logged, and which run, stage and part it is about: lines for eyes, and for readers of `key=value`."""

import contextlib
import functools
import logging
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from uuid import uuid4

FORMAT = "%(asctime)s %(levelname)s run=%(run)s stage=%(stage)s part=%(part)s %(message)s"

_about: ContextVar[tuple[str, str, str]] = ContextVar("about", default=("-", "-", "-"))


def new_run() -> str:
    """A name for a run: when it began, and a few letters against others of that second."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid4().hex[:4]}"


@contextlib.contextmanager
def about(run: str, stage: str, part: int | None = None) -> Iterator[None]:
    """What this thread logs and writes in here is about that."""
    token = _about.set((run, stage, "-" if part is None else str(part)))
    try:
        yield
    finally:
        _about.reset(token)


def run() -> str | None:
    """The run that this thread works for, if it works for one."""
    name = _about.get()[0]
    return None if name == "-" else name


@functools.cache  # a worker may be given many parts
def to_stderr(level: int = logging.INFO) -> None:
    """Let this process log what our own code says, and others' warnings, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(FORMAT, "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(_placed)
    logging.getLogger().addHandler(handler)
    logging.getLogger("pipeline").setLevel(level)


def _placed(record: logging.LogRecord) -> bool:
    record.run, record.stage, record.part = _about.get()
    return True
