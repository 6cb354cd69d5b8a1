"""Weights in the archive: `models/<sha256>/`, put there once, read by every worker and by offline searches."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.models import settings
from pipeline.models.settings import ABOUT
from pipeline.photo import UserError

if TYPE_CHECKING:  # torch takes seconds to load, in vain where the weights are not here
    from pipeline.models import openclip, owl


def put(archive: str, model: str, pretrained: str | None, path: Path, sha256: str) -> None:
    """Copy a checkpoint into the archive, with its other files, unless it is there.

    `path`, `sha256`: as `weights` or `repository` found it.
    """
    from pipeline.models import repository, weights

    folder = storage.join(archive, "models", sha256)
    if storage.exists(storage.join(folder, ABOUT)):
        return
    in_transformers_form = pretrained is None and not (path.parent / weights.CONFIG).exists()
    names = [path.name, *(repository.beside(path) if in_transformers_form else weights.beside(model, path))]
    for name in names:
        url = storage.join(folder, name)
        with storage.scratch(url) as scratch:
            shutil.copyfile(path.parent / name, scratch)
            storage.create(url, scratch)
    about = {
        "model": weights.portable(model) if model.startswith(weights.LOCAL_DIR) else model,
        "pretrained": pretrained and weights.portable(pretrained),
        "license": settings.LICENSES.get((model, settings.tag(pretrained) or "")),
        "files": names,
    }
    storage.create(storage.join(folder, ABOUT), json.dumps(about, indent=2).encode())


def load(
    archive: str,
    model: str,
    pretrained: str | None,
    sha256: str | None,
    *,
    device: str | None = None,
    precision: str = "auto",
    tower: "openclip.Tower | None" = None,
) -> "openclip.Model":
    """Load a model from the weights that the archive holds; `sha256` None: the random ones. Raises UserError.

    `tower`: see openclip.load. What the file's SHA-256 is, is then taken from the archive, which calls it by that: to
    read all of it would take longer than to read the half that is wanted. `tintype verify` reads it all.
    """
    path = None if sha256 is None else local(archive, sha256)
    from pipeline.models import openclip

    known = sha256 if tower else None
    return openclip.load(model, pretrained, device=device, precision=precision, path=path, tower=tower, sha256=known)


def load_owl(archive: str, model: str, sha256: str, precision: str = "auto") -> "owl.Owl":
    """As `load`, of a model that finds objects."""
    path = local(archive, sha256)
    from pipeline.models import owl

    return owl.load(model, path, precision=precision)


def local(archive: str, sha256: str) -> Path:
    """The local file with these weights: the archive's own, or a copy in the cache where the archive is remote."""
    folder = storage.join(archive, "models", sha256)
    try:
        names = json.loads(storage.read(storage.join(folder, ABOUT)))["files"]
    except FileNotFoundError as error:
        raise UserError(
            f"{archive} does not hold the weights {sha256[:12]}…; `tintype models CONF` puts them there"
        ) from error
    if storage.is_local(folder):
        return storage.local_path(folder) / names[0]
    for name in names:
        storage.bring(storage.join(folder, name), storage.cache("models", sha256, name))
    return storage.cache("models", sha256, names[0])
