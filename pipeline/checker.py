"""Files that nobody has decoded before are decoded in child processes, for a file may kill its decoder."""

import asyncio
import fcntl
import json
import os
import resource
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from queue import LifoQueue
from typing import Self

from pipeline.imaging import BadImage, Checked, check, cpus

TOLD = ("format", "width", "height", "derivative_width", "derivative_height")  # of Checked, as JSON
REQUEST = struct.Struct("!QQ?d")  # bytes of data, max_pixels, derivative, CPU seconds allowed; the data follows
PIPE = 1 << 20  # bytes that wait for the child: most files go in one piece, and the sender need not wake up again
ANSWER = struct.Struct("!II")  # bytes of JSON (Checked, or reason and detail), bytes of derivative; both follow


class Checker:
    """`check`, in child processes, so that a file that kills its decoder is BadImage("decoder_crashed") and no more.

    A context manager. Threads may share it: each call has a child for itself, and waits while all are at work. Children
    start when needed, are limited in memory and, a file, in seconds of CPU (that a machine is busy is no fault of the
    file's), and die with this process.
    """

    def __init__(self, children: int | None = None, deadline: float = 60.0) -> None:
        self.deadline = deadline
        self.children = children or cpus()
        self._idle: LifoQueue[subprocess.Popen[bytes] | None] = LifoQueue()
        for _ in range(self.children):
            self._idle.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children that are at rest. Another call starts new ones."""
        for child in [self._idle.get() for _ in range(self._idle.qsize())]:
            if child:
                _end(child)
            self._idle.put(None)

    def check(self, data: bytes, *, max_pixels: int, derivative: bool) -> Checked:
        """As `imaging.check`."""
        request = REQUEST.pack(len(data), max_pixels, derivative, self.deadline)
        return self._check(self._idle.get(), request, data)

    async def check_soon(self, data: bytes, *, max_pixels: int, derivative: bool) -> Checked:
        """As `check`, on an event loop, which goes on meanwhile: at most `children` of these at a time."""
        request = REQUEST.pack(len(data), max_pixels, derivative, self.deadline)
        child = self._idle.get()
        # The loop itself asks where it need not wait before the pipe, a thread where it must, or where a child is to be
        # started or to be buried.
        if child and len(request) + len(data) <= _room(child) and _send(child, request, data):
            try:
                await _readable(child)
            except asyncio.CancelledError:
                child.kill()  # it is at work for nobody
                _end(child)
                self._idle.put(None)
                raise
            if answer := _receive(child):
                self._idle.put(child)
                return _checked(*answer)
        return await asyncio.to_thread(self._check, child, request, data)

    def _check(self, child: subprocess.Popen[bytes] | None, request: bytes, data: bytes) -> Checked:
        try:
            while True:
                fresh = child is None
                child = child or _start()
                if _send(child, request, data) and (answer := _receive(child)):
                    return _checked(*answer)
                status, child = _end(child), None
                if status == -signal.SIGPROF:
                    raise BadImage("decoder_crashed", f"took more than {self.deadline:g} s of CPU to decode")
                if fresh:
                    raise BadImage("decoder_crashed", f"the process that decoded it ended with status {status}")
                # It had decoded other files before, and one of those may have done the damage: ask a fresh one.
        finally:
            self._idle.put(child)


def _start() -> subprocess.Popen[bytes]:
    """A child that is ready. Dies with CalledProcessError where it cannot start: no file is to blame for that."""
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline.checker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        process_group=0,  # Ctrl-C is for its parent, which ends it
    )
    assert child.stdin and child.stdout
    with suppress(OSError, AttributeError):  # beyond what the user may have; not on this system
        fcntl.fcntl(child.stdin, fcntl.F_SETPIPE_SZ, PIPE)
    if child.stdout.read(1) != b"+":
        raise subprocess.CalledProcessError(_end(child), child.args)
    return child


def environment() -> dict[str, str]:
    """What a child that reads what strangers sent needs of the environment: no key, no token."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    return kept | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}  # BLAS threads would eat address space


def _room(child: subprocess.Popen[bytes]) -> int:
    """Bytes that a child at rest can be sent without waiting."""
    assert child.stdin
    return fcntl.fcntl(child.stdin, fcntl.F_GETPIPE_SZ) if hasattr(fcntl, "F_GETPIPE_SZ") else 0


def _send(child: subprocess.Popen[bytes], request: bytes, data: bytes) -> bool:
    """Whether the child was there to be asked."""
    assert child.stdin
    try:
        child.stdin.write(request + data)
        child.stdin.flush()
    except BrokenPipeError:
        return False
    return True


async def _readable(child: subprocess.Popen[bytes]) -> None:
    """Wait until the child answers, or dies."""
    assert child.stdout
    loop = asyncio.get_running_loop()
    answers = asyncio.Event()
    loop.add_reader(child.stdout, answers.set)
    try:
        await answers.wait()
    finally:
        loop.remove_reader(child.stdout)


def _receive(child: subprocess.Popen[bytes]) -> tuple[bytes, bytes] | None:
    """(JSON, derivative) that the child answers, None where it died instead."""
    assert child.stdout
    head = child.stdout.read(ANSWER.size)
    if len(head) < ANSWER.size:
        return None
    told, made = ANSWER.unpack(head)
    body = child.stdout.read(told + made)
    return (body[:told], body[told:]) if len(body) == told + made else None


def _end(child: subprocess.Popen[bytes]) -> int:
    """Close a child's pipes, which ends it if it lives; its exit status, minus the signal that killed it."""
    assert child.stdin and child.stdout
    with suppress(BrokenPipeError):
        child.stdin.close()
    child.stdout.close()
    return child.wait()


def _checked(told: bytes, derivative: bytes) -> Checked:
    """What the child's answer says. Raises BadImage."""
    said = json.loads(told)
    if "reason" in said:
        raise BadImage(said["reason"], said["detail"])
    return Checked(**said, derivative=derivative or None)


def _serve() -> None:
    """The child: answers requests until its input ends."""
    requests, answers = os.fdopen(os.dup(0), "rb", PIPE), os.fdopen(os.dup(1), "wb")
    # C libraries print their complaints about bad files; only our own tracebacks are to be seen.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    answers.write(b"+")
    answers.flush()
    while head := requests.read(REQUEST.size):
        size, max_pixels, derivative, deadline = REQUEST.unpack(head)
        _limit_memory(size, max_pixels)
        made = b""
        try:
            data = requests.read(size)
            signal.setitimer(signal.ITIMER_PROF, deadline)  # SIGPROF kills, even inside a decoder, even an orphan
            checked = check(data, max_pixels=max_pixels, derivative=derivative)
            made = checked.derivative or b""
            said = {name: getattr(checked, name) for name in TOLD}
        except BadImage as error:
            said = {"reason": error.reason, "detail": str(error)}
        except MemoryError:
            said = {"reason": "too_large", "detail": "decoding it takes more memory than its pixels account for"}
        told = json.dumps(said).encode()
        answers.write(ANSWER.pack(len(told), len(made)) + told + made)
        answers.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory(size: int, max_pixels: int) -> None:
    """Let this process have the file of `size` bytes twice, 12 bytes a pixel (Pillow takes 4, and some steps need a
    copy), and 2 GiB for itself. Beyond that lie files that lie about their size."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = 2 * size + 12 * max_pixels + 2**31
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


if __name__ == "__main__":
    _serve()
