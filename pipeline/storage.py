"""Files and objects at a URL: create-if-absent, read, list. Knows no tables.

Every name is an fsspec URL or a local path. Nothing here ever overwrites, except `replace`, which exists for the one
pointer and the caches that may change, and for exports.
"""

import contextlib
import errno
import itertools
import os
import re
import shutil
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import filelock
import fsspec
import pyarrow as pa

from pipeline.photo import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)  # what a disk says that takes no more
READ_AHEAD = 8  # at a time: at an object store each is a request or two
STALE_S = 24 * 3600  # a scratch file this old belongs to a process that was killed


Item = TypeVar("Item")
Read = TypeVar("Read")


def filesystem(url: str) -> tuple[Any, str]:
    """(fsspec file system, path in it). Listings are never cached: other workers write while we look."""
    try:
        return fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:  # no such protocol, or its package is not installed
        raise UserError(f"cannot open {url}: {error}") from error


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    assert is_local(url), url
    # As fsspec, which reads what is written here: a home that is not known stays as it is.
    return Path(os.path.expanduser(url.removeprefix("file://")))  # noqa: PTH111


def absolute(url: str) -> str:
    """A file or folder as workers address it: an absolute path, links in it as they are, or the URL."""
    if not is_local(url):
        return url.rstrip("/")
    return os.path.abspath(local_path(url))  # noqa: PTH100  (resolve() would follow links)


def join(url: str, *names: str) -> str:
    return "/".join([url.rstrip("/"), *names])


@contextlib.contextmanager
def scratch(url: str) -> Iterator[Path]:
    """A local temporary file to write what will be created at `url`; removed afterwards.

    For a local `url` it lies in the same folder, since a hard link cannot cross file systems. What killed processes
    left behind there is swept after a day.
    """
    if not is_local(url):
        with tempfile.TemporaryDirectory(prefix="tintype-") as folder:
            yield Path(folder) / "scratch"
        return
    folder_here = local_path(url).parent
    folder_here.mkdir(parents=True, exist_ok=True)
    _sweep_scratch(folder_here.glob(".scratch-*"), STALE_S)
    path = folder_here / f".scratch-{uuid.uuid4().hex}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder(url: str) -> Iterator[Path]:
    """A local temporary folder for files that will be created below `url`, as `scratch` is for one."""
    if not is_local(url):
        with tempfile.TemporaryDirectory(prefix="tintype-") as folder:
            yield Path(folder)
        return
    path = local_path(url) / f".scratch-{uuid.uuid4().hex}"
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _sweep_scratch(found: Iterable[Path], older_than_s: float) -> None:
    for old in found:
        with contextlib.suppress(FileNotFoundError):
            if max(path.stat().st_mtime for path in (old, *old.glob("*"))) < time.time() - older_than_s:
                if old.is_dir():
                    shutil.rmtree(old)
                else:
                    old.unlink()


def create(url: str, data: Path | bytes) -> bool:
    """Create `url` whole, or not at all; False if it was there already. `data`: bytes, or a local file from `scratch`.

    Locally a hard link, on object stores a conditional write (S3's If-None-Match): both fail where the name exists,
    where a rename or a plain put would overwrite.
    """
    if isinstance(data, bytes):
        with scratch(url) as path:
            path.write_bytes(data)
            return create(url, path)
    if is_local(url):
        _sync(data)
        local_path(url).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(data, local_path(url))
        except FileExistsError:
            return False
        return True
    fs, path_there = filesystem(url)
    try:
        fs.put_file(str(data), path_there, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        if _lost_the_race(error):
            return False
        raise
    return True


def _sync(path: Path) -> None:
    """Have a file's bytes on the disk before its name, lest a power cut leave the name alone."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def uploads(url: str) -> list[tuple[str, str, datetime]]:
    """(key, upload id, begun when) of multipart uploads below the folder `url` that were never completed; S3 alone.

    They are listed nowhere else, and paid for all the same. Google's and Azure's go by themselves within a week.
    """
    if not url.startswith(("s3://", "s3a://")):
        return []
    fs, path = filesystem(url)
    bucket, prefix, _ = fs.split_path(path)
    answer = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix.rstrip("/") + "/")
    return [(upload["Key"], upload["UploadId"], upload["Initiated"]) for upload in answer.get("Uploads", [])]


def sweep(url: str, older_than_s: float = STALE_S) -> None:
    """Remove the scratch files, or abort the unfinished uploads, that killed processes left below the folder `url`."""
    if is_local(url):
        folders = os.walk(local_path(url))  # passes over what others delete meanwhile
        found = (Path(folder) / name for folder, inner, names in folders for name in [*inner, *names])
        _sweep_scratch((path for path in found if path.name.startswith(".scratch-")), older_than_s)
    latest = datetime.now(UTC) - timedelta(seconds=older_than_s)
    for key, upload, begun in uploads(url):
        if begun <= latest:
            fs, path = filesystem(url)
            with contextlib.suppress(FileNotFoundError):  # another run was at it
                fs.call_s3("abort_multipart_upload", Bucket=fs.split_path(path)[0], Key=key, UploadId=upload)


def _lost_the_race(error: OSError) -> bool:
    """S3 answers a conditional write with 412 where the name exists, with 409 while another writer is at it."""
    cause = error.__cause__ or error
    code = getattr(cause, "response", {}).get("Error", {}).get("Code")
    return code in ("PreconditionFailed", "ConditionalRequestConflict")


def replace(url: str, data: Path | bytes) -> None:
    """Put `data` at `url` atomically, whatever was there. `data`: bytes, or a local file from `scratch`."""
    if isinstance(data, bytes):
        with scratch(url) as path:
            path.write_bytes(data)
            replace(url, path)
    elif is_local(url):
        _sync(data)
        data.rename(local_path(url))
    else:
        fs, path_there = filesystem(url)
        fs.put_file(str(data), path_there)


def spare(url: str, data: bytes) -> None:
    """As `replace`, for what can be done without: whoever may only read, or has a full disk, goes without it."""
    try:
        replace(url, data)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, *FULL):
            raise


def read(url: str) -> bytes:
    """The bytes at `url`. Raises FileNotFoundError."""
    fs, path = filesystem(url)
    return fs.cat_file(path)


def open_file(url: str) -> Any:
    """A seekable file of the bytes at `url`, for pyarrow. Raises FileNotFoundError."""
    if is_local(url):
        return pa.OSFile(str(local_path(url)))
    fs, path = filesystem(url)
    return fs.open(path, "rb")


def no_space(error: OSError) -> str:
    """One line for an error that is in FULL."""
    return f"no space left on {error.filename or 'the disk'}; free some and run again"


def cache(*names: str) -> Path:
    """A place in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").joinpath("tintype", *names)


def bring(url: str, path: Path) -> None:
    """Make `path` a local copy of `url`, whole or not at all, unless it is there. Raises FileNotFoundError.

    Of several processes that want it at once, one brings it and the others wait: a node with eight GPUs would pull
    eight times the weights through its network.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    fs, path_there = filesystem(url)
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        try:
            fs.get_file(path_there, str(part))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def brought(url: str, folder: Path) -> Path:
    """The file at `url` on this machine: itself, or a copy in a local folder. Raises FileNotFoundError."""
    if is_local(url):
        return local_path(url)
    path = folder / url.rsplit("/", 1)[-1]
    bring(url, path)
    return path


def exists(url: str) -> bool:
    fs, path = filesystem(url)
    return fs.exists(path)


def names(url: str) -> list[str]:
    """Sorted names of what lies in the folder `url`; [] where there is none. Scratch files are not shown."""
    fs, path = filesystem(url)
    try:
        entries = fs.ls(path, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = {re.split(r"[/\\]", entry.rstrip("/"))[-1] for entry in entries}
    found.discard(re.split(r"[/\\]", path.rstrip("/"))[-1] if entries == [path] else "")
    return sorted(name for name in found if name and not name.startswith("."))


def size(url: str) -> int:
    """Bytes of all that lies below the folder `url`; 0 where there is none."""
    fs, path = filesystem(url)
    try:
        return sum(entry["size"] or 0 for entry in fs.find(path, detail=True).values())
    except FileNotFoundError:
        return 0


def ahead(read: Callable[[Item], Read], items: Iterable[Item]) -> Iterator[Read]:
    """What `read` gives for each item, in their order, some of them read before they are asked for."""
    todo = iter(items)
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        line = deque(pool.submit(read, item) for item in itertools.islice(todo, READ_AHEAD))
        while line:
            yield line.popleft().result()
            line.extend(pool.submit(read, item) for item in itertools.islice(todo, 1))


def delete(url: str) -> None:
    """Delete one file; quietly, where it is gone already."""
    fs, path = filesystem(url)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def delete_folder(url: str) -> None:
    """Delete a folder of files; quietly, where it is gone already."""
    for name in names(url):
        delete(join(url, name))
    if is_local(url):
        shutil.rmtree(local_path(url), ignore_errors=True)
