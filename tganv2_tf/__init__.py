"""TGANv2 (Saito & Saito, 2018) in Keras / TensorFlow 2.

`tganv2_tf.load(path)` loads a generator, and `tganv2_tf.evaluate(path, ...)` scores one. `python -m tganv2_tf` lists
the commands.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from tganv2_tf.runtime import lanes

if TYPE_CHECKING:
    from tganv2_tf.api import load

if lanes.python_fault():
    raise SystemExit(lanes.python_fault())
if not importlib.util.find_spec("absl"):  # one small package as a proxy for all requirements
    raise SystemExit(f"The requirements of tganv2_tf are not installed: {lanes.install_command()}")
lanes.prepare()

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    """Imports the functions on first access, because most commands need neither."""
    if name == "load":
        from tganv2_tf.api import load

        return load
    if name == "evaluate":  # a callable module
        import tganv2_tf.evaluate as command

        return command
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
