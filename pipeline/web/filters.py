"""`where` of strangers, in child processes that are killed when they take too long or too much memory.

DuckDB can be interrupted, but not inside one call of a function: `repeat('a', 2000000000)` goes on for half a minute.
And what it allocates there is not in its own account. Only a process of its own can be ended at any moment.
"""

import json
import os
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, LifoQueue

import duckdb
import numpy as np

from pipeline import builds, checker, facts
from pipeline.photo import UserError
from pipeline.web.turns import Busy

MEMORY = 512 << 20  # bytes that DuckDB may take by its own account; its process twice as much and what it began with
KEPT = 64 << 20  # bytes of row ids that are remembered
LENGTH = struct.Struct("!Q")
# Functions, tables and schemas as DuckDB's own parser names them: a text among an expression's has its quotes escaped.
NAMES = re.compile(r'"(?:function|table|schema)_name":"([^"]*)"')
ABOUT_ITSELF = (
    "duckdb_",
    "pragma_",
    "pg_",
    "sqlite_",
    "information_schema",
    "current_setting",
    "which_secret",
    "query",
)


class Filters:
    """The row ids that expressions keep, of any build. Threads may share it."""

    def __init__(self, deadline: float, waiting: int, children: int = 2) -> None:
        self.deadline = deadline  # seconds of one expression
        self._places = threading.BoundedSemaphore(waiting)  # each who waits holds a thread of the server
        self._idle: LifoQueue[_Child | None] = LifoQueue()
        for _ in range(children):
            self._idle.put(None)
        self._known: OrderedDict[tuple[tuple[Path, ...], tuple[str, ...]], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def matching(self, build: builds.Build, wheres: Sequence[str]) -> np.ndarray:
        """As `facts.matching`. Raises UserError also for what takes too long; Busy where too many wait; Damaged."""
        key = (build.folders, tuple(wheres))
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        if not self._places.acquire(blocking=False):
            raise Busy
        try:
            found = self._ask(build, wheres)
        finally:
            self._places.release()
        with self._lock:
            self._known[key] = found
            while sum(rows.nbytes for rows in self._known.values()) > KEPT and len(self._known) > 1:
                self._known.popitem(last=False)
        return found

    def _ask(self, build: builds.Build, wheres: Sequence[str]) -> np.ndarray:
        try:
            child = self._idle.get(timeout=self.deadline)
        except Empty:
            raise Busy from None
        try:
            if child and (child.folders != build.folders or child.is_gone()):
                child.end()
                child = None
            child = child or _Child(build.folders)
            answer = child.ask(wheres, self.deadline)
            if answer is None:
                child.end()
                child = None
                raise UserError(
                    f"this filter took more than {self.deadline:g} s or too much memory, and was ended: ask for less"
                )
        finally:
            self._idle.put(child)
        if answer[:1] == b"?":
            raise facts.damaged(build.folders[-1])
        if answer[:1] == b"!":
            raise UserError(answer[1:].decode())
        return np.frombuffer(answer[1:], np.int64)

    def close(self) -> None:
        for child in [self._idle.get() for _ in range(self._idle.qsize())]:
            if child:
                child.end()
            self._idle.put(None)


class _Child:
    """A process that holds the database of one build."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self.folders = folders
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.web.filters", *map(str, folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=checker.environment(),
            process_group=0,  # Ctrl-C is for the server, which ends it
        )
        assert self._process.stdin and self._process.stdout
        if self._process.stdout.read(1) != b"+":
            self.end()
            raise facts.damaged(folders[-1])

    def ask(self, wheres: Sequence[str], deadline: float) -> bytes | None:
        """Its answer; None where it died, or did not answer in time."""
        assert self._process.stdin and self._process.stdout
        asked = json.dumps({"wheres": list(wheres), "deadline": deadline}).encode()
        with suppress(BrokenPipeError):
            self._process.stdin.write(LENGTH.pack(len(asked)) + asked)
            self._process.stdin.flush()
        answer = b""
        until = time.monotonic() + deadline
        size = LENGTH.size
        while len(answer) < size:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, until - time.monotonic()))
            piece = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            if not piece:
                return None
            answer += piece
            if len(answer) >= LENGTH.size:
                size = LENGTH.size + LENGTH.unpack_from(answer)[0]
        return answer[LENGTH.size :]

    def is_gone(self) -> bool:
        """Whether it died while it was at rest."""
        return self._process.poll() is not None

    def end(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()


def _serve(folders: tuple[Path, ...]) -> None:
    """The child: answers until its input ends."""
    os.chdir("/")  # what an error quotes tells nothing of where this is
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with facts.reading(folders[-1]):
        masked = np.load(folders[-1] / "masked.npy") if len(folders) > 1 else np.empty(0, np.int64)
    limits = {"memory_limit": f"{MEMORY}B", "temp_directory": "", "threads": "1"}  # nothing is written to disk
    database = facts.database(folders, masked, **limits)
    facts.matching(database, ["true"])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + 2 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
    answers.write(b"+")
    answers.flush()
    while head := requests.read(LENGTH.size):
        asked = json.loads(requests.read(LENGTH.unpack(head)[0]))
        signal.setitimer(signal.ITIMER_REAL, asked["deadline"])  # kills in any case, even an orphan that sleeps
        try:
            for where in asked["wheres"]:
                _check(database, where)
            answer = b"=" + facts.matching(database, asked["wheres"]).tobytes()
        except facts.Damaged:
            answer = b"?"
        except UserError as error:
            answer = b"!" + str(error).encode()
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(LENGTH.pack(len(answer)) + answer)
        answers.flush()


def _check(database: duckdb.DuckDBPyConnection, where: str) -> None:
    """Raises UserError for what asks the database about itself: its settings say where the archive lies."""
    # What is no expression has names of nothing here; that it is none is said by whoever evaluates it.
    [said] = database.cursor().execute("SELECT json_serialize_sql('SELECT ' || ?::VARCHAR)", [where]).fetchall()
    for name in NAMES.findall(said[0]):
        if name.lower().startswith(ABOUT_ITSELF):
            raise UserError(f"cannot use --where {where!r}: {name} is not for filters, which ask about photos alone")


def _address_space() -> int:
    """Bytes of address space that this process has already."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    # A damaged build is its parent's to tell of; a parent that was killed takes no answer.
    with suppress(facts.Damaged, BrokenPipeError):
        _serve(tuple(Path(folder).absolute() for folder in sys.argv[1:]))
