"""What a training leaves on disk, and what it goes on from: checkpoint, history, and the model in OpenCLIP's form."""

import io
import json
import math
import pickle
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from pipeline import storage
from pipeline.models.weights import CONFIG
from pipeline.photo import UserError
from pipeline.training.settings import TrainSettings
from pipeline.training.towers import Towers

CHECKPOINT, HISTORY, MODEL = "checkpoint.pt", "history.json", "model"
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
WEIGHTS = "open_clip_model.safetensors"
# What may be other when a stopped training goes on: where and how it runs, not what it computes.
ABOUT_RUNNING = ("out", "workers", "runner", "device", "accumulate", "recompute", "save_every")

Line = dict[str, float]  # of the history: "step", and what was measured there


@dataclass
class State:
    """A training under way: all that a checkpoint holds."""

    towers: Towers
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor] | None
    vocabulary: list[int] | None  # the tokens that its tables are narrowed to
    step: int = 0
    history: list[Line] = field(default_factory=list)

    def best(self) -> Line | None:
        """The latest judgement that chance cannot tell from the one with the highest recall@1: by that one's standard
        error, the rule of Breiman et al. (Classification and Regression Trees, 1984)."""
        judged = [line for line in self.history if "recall@1" in line]
        if not judged:
            return None
        top = max(judged, key=lambda line: line["recall@1"])
        error = math.sqrt(top["recall@1"] * (1 - top["recall@1"]) / top["photos"])
        return next(line for line in reversed(judged) if line["recall@1"] >= top["recall@1"] - error)


def identity(asked: TrainSettings) -> dict[str, Any]:
    """What the result depends on, ready for JSON."""
    said = {name: value for name, value in asdict(asked).items() if name not in ABOUT_RUNNING}
    return dict(json.loads(json.dumps(said)))


def save(state: State, asked: TrainSettings) -> None:
    """Write the checkpoint, whole or not at all, and the history beside it."""
    held = io.BytesIO()
    kept = {
        "identity": identity(asked),
        "towers": state.towers.state_dict(),
        "average": state.average,
        "vocabulary": state.vocabulary,
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "history": state.history,
    }
    torch.save(kept, held)
    storage.replace(storage.join(asked.out, CHECKPOINT), held.getvalue())
    tell(state, asked)


def tell(state: State, asked: TrainSettings) -> None:
    said = {"settings": identity(asked), "best": state.best(), "history": state.history}
    storage.replace(storage.join(asked.out, HISTORY), json.dumps(said, indent=1).encode())


def restore(state: State, asked: TrainSettings, device: str) -> bool:
    """Go on from the checkpoint in `out`, if there is one. Raises UserError where it is of another training."""
    path = storage.join(asked.out, CHECKPOINT)
    try:
        held = torch.load(io.BytesIO(storage.read(path)), map_location=device)
        others, words = differing(held["identity"], identity(asked)), held["vocabulary"]
    except FileNotFoundError:
        return False
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not of a training: name another out, or delete it to begin anew") from error
    if others:
        raise UserError(
            f"{asked.out} holds a training with other settings ({', '.join(others)}): "
            "name another out, or delete its checkpoint.pt to begin anew"
        )
    if words != state.vocabulary:
        raise UserError(
            f"the data have other words than when {asked.out} was begun, and tokens: used trains those of then: "
            "name another out, or delete its checkpoint.pt to begin anew"
        )
    state.towers.load_state_dict(held["towers"])
    state.optimizer.load_state_dict(held["optimizer"])
    state.average, state.step, state.history = held["average"], held["step"], held["history"]
    return True


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The settings that differ, by name."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def write_model(
    asked: TrainSettings,
    net: Any,
    tokenizer: Any,
    config: dict[str, Any],
    preprocess: dict[str, Any],
    weights: dict[str, Tensor],
) -> None:
    """Put a model into `out/model` in OpenCLIP's form: other commands take it as `local-dir:OUT/model`.

    The weights come last, so that where they are, all that belongs to them is.
    """
    folder = storage.join(asked.out, MODEL)
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[asked.saved_as]
    ready = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for name, value in weights.items()
    }
    with tempfile.TemporaryDirectory() as place:
        if "dual_encoder" in config:
            from pipeline.models import dual_encoder

            dual_encoder.save_beside(net, tokenizer, Path(place))
        else:
            kept = {name: preprocess[name] for name in PREPROCESSING if name in preprocess}
            told = json.dumps({"model_cfg": config, "preprocess_cfg": kept}, indent=2)
            Path(place, CONFIG).write_text(told)
        for file in sorted(Path(place).iterdir()):
            storage.replace(storage.join(folder, file.name), file.read_bytes())
    storage.replace(storage.join(folder, WEIGHTS), to_safetensors(ready))
