"""Where a model in the transformers library's form comes from: a folder, or a repository of the Hugging Face hub."""

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from pipeline.models import weights
from pipeline.models.weights import LOCAL_DIR
from pipeline.photo import UserError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONFIG = "config.json"
# What else such a folder may hold of a model that reads pictures and texts. Each release of the library writes others.
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
TOKENIZER = ("tokenizer.json", "vocab.json")
BESIDE = (
    *(CONFIG, *PREPROCESSING, *TOKENIZER),
    *("tokenizer_config.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
)


def check_library(model: str) -> None:
    """Raises UserError where the library is not installed."""
    if not importlib.util.find_spec("transformers"):
        raise UserError(f"{model} needs the transformers package: pip install 'tintype[transformers]'")


@contextlib.contextmanager
def no_bar() -> Iterator[None]:
    """Keeps the library, which must be installed, from drawing progress bars of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def checkpoint(model: str) -> tuple[Path, str]:
    """The local file with the weights of `local-dir:PATH` or of a hub repository, fetched if need be, and its SHA-256.

    The other files of the model lie beside it. Raises UserError where it cannot be had.
    """
    check_library(model)
    folder = _folder(model) if model.startswith(LOCAL_DIR) else _in_hub(model)
    path = next(folder / name for name in WEIGHTS if (folder / name).is_file())
    return path, weights.sha256(path)


def beside(path: Path) -> list[str]:
    """The names of the files that belong to the weights at `path`."""
    return [name for name in BESIDE if (path.parent / name).is_file()]


def _folder(model: str) -> Path:
    folder = Path(model.removeprefix(LOCAL_DIR)).expanduser()
    if lacking := _lacking(folder):
        raise UserError(f"{model}: there is no {lacking} in this folder")
    return folder


def _lacking(folder: Path) -> str | None:
    """What a folder lacks of a model, in words."""
    for names in ((CONFIG,), WEIGHTS, PREPROCESSING, TOKENIZER):
        if not any((folder / name).is_file() for name in names):
            return " and no ".join(names)
    return None


def _in_hub(model: str) -> Path:
    """The folder of a repository in the hub library's own cache, downloaded if it is not there."""
    name = model.removeprefix(weights.HUB)
    problem = None
    try:
        for here_only in (True, False):
            if not here_only and (problem := weights.hub_unreachable()):
                break
            # Many repositories hold the same weights in several forms.
            for form in WEIGHTS:
                try:
                    found = huggingface_hub.snapshot_download(
                        name, allow_patterns=[form, *BESIDE], local_files_only=here_only
                    )
                except huggingface_hub.errors.LocalEntryNotFoundError:
                    if not here_only:
                        raise  # the connection failed
                    break
                problem = _lacking(Path(found))
                if not problem:
                    return Path(found)
                problem = f"it holds no {problem}"
    except (HfHubHTTPError, OSError, ValueError) as error:
        problem = weights.reason(error)
    raise UserError(
        f"{model} is not on this machine and cannot be fetched from the Hugging Face hub ({problem}): fetch its "
        f"repository where there is a network, and set model: local-dir:/path/to/it"
    )
