"""A small photostream served as Flickr serves one, and the settings of a run over it with a tiny random CoCa."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.config import Settings, parse
from pipeline.demo.server import Served, serve
from pipeline.demo.stream import ALIAS, demo_stream
from pipeline.progress import Progress
from pipeline.run import Summary, run
from pipeline.work import STEPS

PHOTOS = 72


@contextmanager
def served(cache: Path) -> Iterator[Served]:
    with serve(demo_stream(PHOTOS), cache) as server:
        yield server


def settings(archive: str, api_url: str, model: Path, runner: str, **changed: Any) -> Settings:
    tiny = {"model": f"local-dir:{model}", "precision": "fp32"}
    given = {
        "archive": archive,
        "sources": [{"kind": "flickr", "user": ALIAS, "api_url": api_url, "api_rate": 100}],
        "images": {"min_side": 60, "rate": None, "backoff": 0.01, "attempts": 2},
        "embeddings": {"tiny": tiny},
        "captions": {"tiny": tiny | {"generation": "greedy"}},
        "run": {"runner": runner, "part_size": 20},
    }
    return parse(given | changed)


def carry_out(settings: Settings, steps: Any = STEPS, **how: Any) -> Summary:
    return run(settings, Progress(Console(file=sys.stderr, force_terminal=False)), steps, **how)


def encoded(network: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each pass of models of this class was given, from now on."""
    seen: list[int] = []
    encode = network.encode

    def counted(self: Any, pixels: Any) -> Any:
        seen.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(network, "encode", counted)
    return seen
