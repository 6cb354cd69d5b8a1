"""The data that settings of training name, opened."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.training.examples import Joined
from pipeline.training.scenes import Scenes
from pipeline.training.settings import AnyData


def open_data(data: Sequence[AnyData], fit: Any, side: int, preprocess: Mapping[str, Any]) -> Joined:
    """All of it as one. Raises UserError."""
    return Joined([(Scenes(asked, side), asked.templates) for asked in data])
