"""Where the weights of an OpenCLIP model come from: a folder, a file, any URL, or the Hugging Face hub."""

import difflib
import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import open_clip
import requests
import safetensors
from botocore.exceptions import BotoCoreError
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from pipeline import storage
from pipeline.models.settings import named
from pipeline.photo import UserError

LOCAL_DIR, HUB = "local-dir:", "hf-hub:"
TOWERS = "dual-encoder:"  # what is not trained yet: see dual_encoder.of_towers
CONFIG = "open_clip_config.json"
# What reading a file that holds no weights, or another model's, raises.
UNFIT = (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError)

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
# What a text tower of transformers has beside them in a folder, as its configuration and tokenizers are called there.
TEXT_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def checkpoint(model: str, pretrained: str | None) -> tuple[Path, str]:
    """The local file that holds the weights, fetched if need be, and its SHA-256 (64 hex digits).

    For `local-dir:` and `hf-hub:` the model's open_clip_config.json lies beside it.
    Raises UserError as `load` does.
    """
    if model.startswith(TOWERS):
        raise UserError(f"{model} is untrained: `tintype train` makes a folder of it, which is named local-dir:PATH")
    if model.startswith((LOCAL_DIR, HUB)):
        if pretrained is not None:
            raise UserError(f"{model} brings its own weights: leave out pretrained: {pretrained}")
        path = _in_folder(model) if model.startswith(LOCAL_DIR) else _in_hub(model, model.removeprefix(HUB))
    else:
        path = _named_weights(model, pretrained)
    return path, sha256(path)


def beside(model: str, path: Path) -> list[str]:
    """The files beside its weights that a model of a folder or of the hub is loaded with."""
    if not model.startswith((LOCAL_DIR, HUB)):
        return []
    return [CONFIG, *(name for name in TEXT_FILES if (path.parent / name).is_file())]


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
    """The weights of a hub repository."""
    candidates = (filename,) if filename else HUB_WEIGHTS
    if name.startswith(HUB):
        how = f"set model: local-dir:/path/to/a/folder with {CONFIG} and {candidates[0]}"
        return from_hub(f"the weights of {name}", repository, (CONFIG,), candidates, how)
    how = "set pretrained: /path/to/the/checkpoint (or any fsspec URL)"
    return from_hub(f"the weights of {name}", repository, (), candidates, how)


def from_hub(what: str, repository: str, needed: Sequence[str], candidates: Sequence[str], how: str) -> Path:
    """The first of some candidates that a hub repository has, the needed files beside it: in the hub library's own
    cache, downloaded if they are not there. Raises UserError, which ends in `how` to do without a network."""
    files = ", ".join((*needed, " or ".join(candidates)))
    problem = f"it does not hold {files}"
    try:
        for here_only in (True, False):
            if not here_only and (unreachable := hub_unreachable()):
                problem = unreachable
                break
            for candidate in candidates:
                try:
                    *_, path = (
                        huggingface_hub.hf_hub_download(repository, file, local_files_only=here_only)
                        for file in (*needed, candidate)
                    )
                    return Path(path)
                except EntryNotFoundError as error:
                    if isinstance(error, LocalEntryNotFoundError) and not here_only:
                        raise  # the connection failed: the next candidate would fail as slowly
    except (HfHubHTTPError, OSError, ValueError) as error:
        problem = reason(error)
    raise UserError(
        f"{what} are not on this machine and cannot be fetched from {repository} on the Hugging Face hub ({problem}): "
        f"fetch {files} of it where there is a network, and {how}"
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
