"""A tree of picture files as a source of photos, here or at any fsspec URL."""

import contextlib
import os
from collections.abc import Container, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from pipeline import storage
from pipeline.gate import Gates
from pipeline.imaging import looks_like_image
from pipeline.photo import Photo, Rights, Size, UserError
from pipeline.sources import Listing, embedded, sidecar
from pipeline.sources.facts import Facts, partial_date
from pipeline.sources.licences import recognise
from pipeline.sources.sidecar import Sidecar

PAGE = 1000  # photos

# Files of these names are listed whatever they hold: what cannot be decoded (HEIC, JPEG XL, broken files)
# is to end with a reason. Files of other names are listed if they begin like a picture.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".avif", ".avifs", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".psd", ".tga"),
    *(".ico", ".pcx", ".sgi", ".qoi", ".heic", ".heif", ".jxl"),
)
SYSTEM = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")  # full of thumbnails and copies


@dataclass(frozen=True)
class FolderSource:
    """All pictures in a folder and the folders below it, in the order of their paths."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}
    default_store: ClassVar[Literal["original", "derivative"]] = "derivative"
    default_max_pixels: ClassVar[int] = 600_000_000

    path: str
    """The folder: a local path or any fsspec URL, such as s3://bucket/scans. Captions files in it are read: see
    docs/evaluation.md for Flickr8k, Flickr30k and COCO."""
    kind: Literal["folder"] = "folder"
    """This kind of source."""
    limit: int | None = None
    """Only the first so many pictures, to try it out; the same archive grows when it is raised."""
    license: str | None = None
    """Licence of the pictures that name none themselves: a URL, or a name such as CC BY 4.0."""
    prefix: str = ""
    """Put before the path in photo ids, to tell apart the pictures of several folders in one archive."""

    @property
    def root(self) -> str:
        """The folder as workers address it: an absolute path, or the URL."""
        return storage.absolute(self.path)

    @property
    def name(self) -> str:
        return f"folder:{self.root}"

    def pace(self, gates: Gates) -> None:
        """Nothing is asked of a host to list it."""

    def check(self) -> None:
        """Raise UserError if the folder is missing, cannot be read or holds no picture."""
        walk = Walk(self.root, listens=False)
        try:
            if next(walk.pictures(), None) is None:
                raise UserError(f"there are no pictures in {self.path}")
        except FileNotFoundError:
            raise UserError(f"there is no folder {self.path}") from None
        except NotADirectoryError:
            raise UserError(f"{self.path} is a file: name the folder that it lies in") from None
        except PermissionError:
            raise UserError(f"the folder {self.path} cannot be read: its permissions do not allow it") from None

    def photos(self, known: Container[str], newest: datetime | None = None) -> Generator[list[Photo], None, Listing]:
        """Yield the pictures whose ids are not in `known`, 1,000 at a time. Raises UserError as `check` does."""
        self.check()
        observed_at = datetime.now(UTC)
        walk = Walk(self.root)
        pictures = islice(walk.pictures(), self.limit)
        seen = 0
        with ThreadPoolExecutor(16) as threads:  # each reads a header, which at a URL is a request
            while page := list(islice(pictures, PAGE)):
                seen += len(page)
                new = [(path, facts) for path, facts in page if self._id(path) not in known]
                if new:
                    yield list(threads.map(lambda found: self._photo(found[0], found[1], observed_at), new))
        if seen == self.limit:
            return Listing(complete=True, total=None, seen=seen, note=f"stopped at the limit of {seen}", limited=True)
        return Listing(complete=not walk.unread, total=seen, seen=seen, note="; ".join(walk.notes()) or None)

    def sizes(self, photo_id: str) -> list[Size] | None:
        """The file, if it is still there."""
        url = storage.join(self.root, photo_id.removeprefix(self._id("")))
        return [Size(url)] if storage.exists(url) else None

    def is_gone(self, photo_id: str) -> bool:
        """Whether the file is there no more. Raises UserError as `check` does: a disk not mounted loses no pictures."""
        if self.sizes(photo_id) is not None:
            return False
        self.check()
        return True

    def forgets(self, license_id: str | None) -> bool:
        return False

    def _id(self, path: str) -> str:
        return f"file:{self.prefix}{path}"

    def _photo(self, path: str, beside: Facts, observed_at: datetime) -> Photo:
        """The picture at `path`, of which the files beside it tell `beside`."""
        url = storage.join(self.root, path)
        facts = beside
        if None in (beside.title, beside.creator, beside.date, beside.licence):
            try:
                with storage.open_file(url) as file:
                    facts = beside.or_else(embedded.read(file))
            except OSError:  # fetch will try again, and say so
                pass
        licence = facts.licence or self.license
        name, license_url = recognise(licence) if licence else (None, None)
        date_taken, granularity = partial_date(facts.date)
        return Photo(
            photo_id=self._id(path),
            source=self.name,
            rights=Rights(None, name, license_url, observed_at),
            title=facts.title or PurePosixPath(path).stem.replace("_", " "),
            description=facts.description,
            tags=facts.tags,
            human_captions=facts.captions,
            date_taken=date_taken,
            date_granularity=granularity,
            latitude=facts.latitude,
            longitude=facts.longitude,
            owner=facts.creator,
            page_url=facts.page_url,
            sizes=(Size(url),),
            raw=facts.raw,
        )


@dataclass
class Walk:
    """One way through the tree, and what was odd on it."""

    root: str
    listens: bool = True  # to sidecars, which may take long to read
    others: int = 0  # files that are no pictures
    unread: list[str] = field(default_factory=list)  # folders and sidecars that could not be read
    unnamed: int = 0  # pictures whose names are not UTF-8
    complaints: list[str] = field(default_factory=list)  # of sidecars

    def pictures(self) -> Iterator[tuple[str, Facts]]:
        """(path relative to the root, what sidecars tell) of each picture, in the order of the paths."""
        return self._within("", (), ())

    def _within(
        self, folder: str, above: tuple[tuple[str, Sidecar], ...], inside: tuple[str, ...]
    ) -> Iterator[tuple[str, Facts]]:
        """The pictures of `folder` ("" or "a/b/").

        `above`: the sidecars of the folders around it, each with its folder, the nearest first. `inside`: the real
        paths of those folders, by which a link that leads back is known.
        """
        url = storage.join(self.root, folder).rstrip("/") or "/"
        if storage.is_local(url):
            real = os.path.realpath(url)
            if real in inside:
                return
            inside = (*inside, real)
        try:
            entries = _entries(url)
        except OSError:
            if not folder:
                raise
            self.unread.append(folder)
            return
        own = tuple((folder, found) for found in self._sidecars(url, folder, entries))
        above = own + above
        for entry in entries:
            path = folder + entry
            if entry.startswith(".") or entry.rstrip("/") in SYSTEM:
                continue
            if entry.endswith("/"):
                yield from self._within(path, above, inside)
            elif self._is_picture(url, entry):
                if _is_utf8(path):
                    yield path, _told(path, above)
                else:
                    self.unnamed += 1
            elif not sidecar.is_sidecar(entry):
                self.others += 1
        self.complaints += [complaint for _, found in own if (complaint := found.complaint())]

    def _sidecars(self, url: str, folder: str, entries: list[str]) -> Iterator[Sidecar]:
        if not self.listens:
            return
        names = [name for name in sidecar.NAMES if name in entries] + list(filter(sidecar.is_coco, entries))
        if PurePosixPath(folder).name in sidecar.FOLDERS:  # they were read from above
            names = [name for name in names if not sidecar.from_beside(name)]
        for beside in sidecar.FOLDERS:
            if f"{beside}/" in entries:
                with contextlib.suppress(OSError):  # the walk will come there, and say so
                    found = _entries(storage.join(url, beside))
                    names += [f"{beside}/{name}" for name in found if sidecar.from_beside(name)]
        for name in names:
            try:
                yield sidecar.read(url, name, entries)
            except OSError:
                self.unread.append(folder + name)

    def _is_picture(self, url: str, name: str) -> bool:
        if PurePosixPath(name).suffix.lower() in EXTENSIONS:
            return True
        if sidecar.is_sidecar(name):
            return False
        try:
            with storage.open_file(storage.join(url, name)) as file:
                head = file.read(12)
        except OSError:
            return False
        return bool(head) and looks_like_image(head)

    def notes(self) -> list[str]:
        """What is worth telling of the way, once it is over."""
        notes = list(self.complaints)
        if self.unread:
            notes.append(f"could not read {len(self.unread)} folders or files, such as {self.unread[0]}")
        if self.unnamed:
            notes.append(f"passed over {self.unnamed} pictures whose names are not UTF-8: rename them")
        if self.others:
            notes.append(f"passed over {self.others} files that are no pictures")
        return notes


def _entries(url: str) -> list[str]:
    """Names in a folder, those of folders with a slash behind, in an order that makes a walk's paths sorted."""
    if storage.is_local(url):
        with os.scandir(storage.local_path(url)) as entries:
            # Path.is_dir is False of a link to itself, which is an error to DirEntry.
            return sorted(e.name + "/" * (Path(e).is_dir() if e.is_symlink() else e.is_dir()) for e in entries)
    fs, path = storage.filesystem(url)
    path = path.rstrip("/")
    found = {entry["name"].rstrip("/"): entry["type"] for entry in fs.ls(path, detail=True)}
    if found == {path: "file"}:
        raise NotADirectoryError(url)
    found.pop(path, None)  # some stores hold an empty object in the folder's place
    return sorted(name.rpartition("/")[2] + "/" * (kind == "directory") for name, kind in found.items())


def _told(path: str, above: tuple[tuple[str, Sidecar], ...]) -> Facts:
    """What the sidecars tell of the picture at `path`, the nearest believed first."""
    facts = Facts()
    for folder, found in above:
        facts = facts.or_else(found.find(path.removeprefix(folder)) or Facts())
    return facts


def _is_utf8(path: str) -> bool:
    """Whether a path can be held by a table: names on a disk may be any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
