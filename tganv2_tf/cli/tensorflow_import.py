"""Import hook for TensorFlow: rejects an unusable version, and shortens the import.

Importing TensorFlow is most of the start of a command (docs/performance.md). Python's garbage collector runs dozens of
times meanwhile and finds nothing, and Keras imports packages for features that this project does not use.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib.abc
import sys
import types
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from tganv2_tf.errors import InstallError
from tganv2_tf.runtime import lanes

PACKAGES = ("tensorflow", "tf_keras")
UNUSED = ("pandas", "scipy")  # Keras imports them, if installed, for data frames and affine transforms of images


class _Finder(importlib.abc.MetaPathFinder):
    """Wraps the loader of TensorFlow's package; must be first in `sys.meta_path`."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if name not in PACKAGES:
            return None
        if name == "tensorflow" and lanes.tensorflow_fault():
            raise InstallError(lanes.tensorflow_fault(), name=name)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Executes a package by its own loader, without garbage collection and packages that are not needed."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        with _hidden(UNUSED), _no_collection():
            self._loader.exec_module(module)


@contextlib.contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    """Makes imports of the given packages fail, unless they have been imported before."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: the import raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Disables garbage collection, and excludes what was created meanwhile from later collections."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def install() -> None:
    """Installs the hook for the rest of the process. Later calls have no effect."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        atexit.register(gc.freeze)  # at exit, collecting TensorFlow's objects takes half a second and frees nothing
