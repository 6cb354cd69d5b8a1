"""Imports go down only, and each heavy library is known in one place."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))

# Lowest first; a module may import what stands on its own line (its package) or on an earlier one.
FLOORS = [
    ["__init__"],
    ["photo", "gate", "logs", "pulse"],
    ["schemas", "storage", "pixels", "page", "charts", "boxes", "changes"],
    ["archive", "imaging", "phash"],
    ["rollup", "checker"],
    ["sources", "models", "indexes", "words", "runs"],
    ["facts"],
    ["builds"],
    ["stages"],
    ["upkeep", "duplicates"],
    ["search", "status"],
    ["work"],
    ["placement"],
    ["nodes"],
    ["cluster", "contact_sheet", "describe", "export", "progress"],
    ["config"],
    ["console", "rerank"],
    ["plan", "run", "hashing", "evaluation", "web"],
    ["terminal"],
    ["report"],
    ["asking", "demo", "serving"],
    ["evaluating", "reranking"],
    ["training"],
    ["cli"],
]
ONLY_IN = {
    "ray": ("cluster", "nodes", "training"),
    "torch": ("models", "training"),
    "open_clip": ("models", "training"),
    "faiss": ("indexes",),
    "flickrapi": ("sources/flickr",),
    "yaml": ("config",),
    "matplotlib": ("charts",),
    "fastapi": ("web",),
    "starlette": ("web",),
}


def imported(path: Path) -> set[str]:
    """Dotted names that a module imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def place(path: Path) -> str:
    return path.relative_to(ROOT / "pipeline").with_suffix("").as_posix()


def floor_of(name: str) -> int:
    [floor] = [number for number, names in enumerate(FLOORS) if name in names]
    return floor


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_imports_go_down(path: Path) -> None:
    mine = place(path).split("/")[0]
    below = {name.split(".")[1] for name in imported(path) if name.startswith("pipeline.")} - {"__version__"}
    upwards = {other for other in below if other != mine and floor_of(other) >= floor_of(mine)}
    assert not upwards


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_heavy_libraries_are_known_in_one_place(path: Path) -> None:
    for library, places in ONLY_IN.items():
        if library in {name.split(".")[0] for name in imported(path)}:
            assert place(path).startswith(places), f"{place(path)} imports {library}"
