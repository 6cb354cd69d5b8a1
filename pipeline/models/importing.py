"""open_clip imported in half the time: without torch's compiler, which nothing here uses.

torchvision and timm import `torch._dynamo` for a decorator that says what not to compile, and for one function. With
it come sympy and most of torch: 5 of 11 seconds, for each command and each worker. While open_clip is imported they get
modules that only pretend to be it. These are gone afterwards: whoever asks torch to compile gets the real one.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    """What the compiler's decorators do where nothing is compiled."""
    return function if callable(function) else _as_it_is


class _Pretended(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _as_it_is


class _Pretend(MetaPathFinder, Loader):
    """Finds the compiler's modules, and makes them of nothing."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_part = name == COMPILER or name.startswith(f"{COMPILER}.")
        return ModuleSpec(name, self, is_package=True) if is_part else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Pretended(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextlib.contextmanager
def without_compiler() -> Iterator[None]:
    """What asks for the compiler in here gets one that does nothing, unless the real one is there already."""
    if COMPILER in sys.modules:
        yield
        return
    pretend = _Pretend()
    sys.meta_path.insert(0, pretend)
    try:
        yield
    finally:
        sys.meta_path.remove(pretend)
        for name in [name for name, found in sys.modules.items() if isinstance(found, _Pretended)]:
            parent, _, last = name.rpartition(".")
            del sys.modules[name]
            if parent in sys.modules:
                vars(sys.modules[parent]).pop(last, None)


class _Quickly(MetaPathFinder, Loader):
    """Finds open_clip, once, and imports it beside such modules."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "open_clip" or COMPILER in sys.modules:
            return None
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.loader is not None:
            self.loader = spec.loader
            spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with without_compiler():
            self.loader.exec_module(module)


def leave_compiler_out() -> None:
    """Have open_clip imported so, whoever imports it."""
    sys.meta_path.insert(0, _Quickly())
