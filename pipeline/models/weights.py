"""Where the weights of an OpenCLIP model come from: a folder, a file, any URL, or the Hugging Face hub."""

import difflib
import hashlib
from pathlib import Path

import huggingface_hub
import open_clip
import requests
from botocore.exceptions import BotoCoreError
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from pipeline import storage
from pipeline.models.settings import named
from pipeline.photo import UserError

LOCAL_DIR, HUB = "local-dir:", "hf-hub:"
CONFIG = "open_clip_config.json"

# The names OpenCLIP itself looks for in a folder or a hub repository, in its order.
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def checkpoint(model: str, pretrained: str | None) -> tuple[Path, str]:
    """The local file that holds the weights, fetched if need be, and its SHA-256 (64 hex digits).

    For `local-dir:` and `hf-hub:` the model's open_clip_config.json lies beside it.
    Raises UserError as `load` does.
    """
    if model.startswith((LOCAL_DIR, HUB)):
        if pretrained is not None:
            raise UserError(f"{model} brings its own weights: leave out pretrained: {pretrained}")
        path = _in_folder(model) if model.startswith(LOCAL_DIR) else _in_hub(model, model.removeprefix(HUB))
    else:
        path = _named_weights(model, pretrained)
    return path, sha256(path)


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_folder(model: str) -> Path:
    folder = Path(model.removeprefix(LOCAL_DIR)).expanduser()
    if not (folder / CONFIG).is_file():
        raise UserError(f"{model}: there is no {CONFIG} in this folder")
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        raise UserError(f"{model}: there are no weights in this folder (one of {', '.join(WEIGHTS)})")
    return found[0]


def check_name(model: str) -> None:
    """UserError unless OpenCLIP has a model of this name."""
    if model not in open_clip.list_models():
        near = _nearest(model, open_clip.list_models())
        raise UserError(f"OpenCLIP has no model {model!r}{near}; a folder is given as local-dir:PATH")


def _named_weights(model: str, pretrained: str | None) -> Path:
    check_name(model)
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is None:
        raise UserError(
            f"{model} without pretrained would be random weights: name some ({', '.join(tags[:6]) or 'none known'}) "
            "or the path or URL of a checkpoint"
        )
    if "://" in pretrained:
        return _fetched(pretrained)
    if Path(pretrained).expanduser().is_file():
        return Path(pretrained).expanduser()
    if not is_tag(model, pretrained):
        raise UserError(f"{model} has no weights {pretrained!r} and there is no such file{_nearest(pretrained, tags)}")
    config = open_clip.get_pretrained_cfg(model, pretrained)
    if config.get("quick_gelu") and not open_clip.get_model_config(model).get("quick_gelu"):
        raise UserError(f"{named(model, pretrained)} was trained with QuickGELU: name the model {model}-quickgelu")
    repository, _, filename = config["hf_hub"].rpartition("/")
    return _in_hub(named(model, pretrained), repository, filename)


def _fetched(url: str) -> Path:
    """A local copy of a checkpoint at an fsspec URL, kept by the version that the store reports (its ETag or time)."""
    if storage.is_local(url):
        if not storage.local_path(url).is_file():
            raise UserError(f"there is no checkpoint {url}")
        return storage.local_path(url)
    fs, remote = storage.filesystem(url)
    try:
        version = hashlib.sha256(f"{url} {fs.ukey(remote)}".encode()).hexdigest()[:32]
        target = storage.cache("checkpoints", version, remote.rstrip("/").rsplit("/", 1)[-1])
        storage.bring(url, target)
    except (OSError, ValueError, BotoCoreError) as error:  # S3's missing credentials are no OSError
        raise UserError(f"the checkpoint {url} cannot be fetched ({reason(error)})") from error
    return target


def _in_hub(name: str, repository: str, filename: str = "") -> Path:
    """The weights of a hub repository in the hub library's own cache, downloaded if they are not there."""
    candidates = (filename,) if filename else HUB_WEIGHTS
    beside = (CONFIG,) if name.startswith(HUB) else ()
    problem = f"it holds none of {', '.join(candidates)}"
    try:
        for here_only in (True, False):
            if not here_only and (unreachable := hub_unreachable()):
                problem = unreachable
                break
            for candidate in candidates:
                try:
                    *_, path = (
                        huggingface_hub.hf_hub_download(repository, file, local_files_only=here_only)
                        for file in (*beside, candidate)
                    )
                    return Path(path)
                except EntryNotFoundError as error:
                    if isinstance(error, LocalEntryNotFoundError) and not here_only:
                        raise  # the connection failed: the next candidate would fail as slowly
    except (HfHubHTTPError, OSError, ValueError) as error:
        problem = reason(error)
    how = (
        f"model: local-dir:/path/to/a/folder with {CONFIG} and {candidates[0]}"
        if beside
        else "pretrained: /path/to/the/checkpoint (or any fsspec URL)"
    )
    raise UserError(
        f"the weights of {name} are not on this machine and cannot be fetched from {repository} on the Hugging Face "
        f"hub ({problem}): fetch {' or '.join(candidates)} of it where there is a network, and set {how}"
    )


def hub_unreachable() -> str | None:
    """Why the hub cannot be asked, or None. The hub's library itself would try for 24 s a file before it says so."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        requests.head(huggingface_hub.constants.ENDPOINT, timeout=10)
    except requests.exceptions.SSLError:
        return None  # it is there; which certificates to trust is for the hub's library to know
    except requests.RequestException:
        return "no connection"
    return None


def is_tag(model: str, pretrained: str | None) -> bool:
    return pretrained is not None and open_clip.is_pretrained_cfg(model, pretrained)


def portable(name: str) -> str:
    """A name without the folders that differ from machine to machine; the SHA-256 says which file it is."""
    if name.startswith(HUB):
        return name
    prefix = LOCAL_DIR if name.startswith(LOCAL_DIR) else ""
    return prefix + name.removeprefix(prefix).rstrip("/").rsplit("/", 1)[-1]


def _nearest(name: str, names: list[str]) -> str:
    lower = {n.lower(): n for n in names}
    near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    return f": did you mean {', '.join(near)}?" if near else ""


def reason(error: BaseException) -> str:
    """The first line of what an exception says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
