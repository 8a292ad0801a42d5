"""TGANv2 (Saito & Saito, 2018) in Keras / TensorFlow 2.

`tganv2_tf.load(path)` loads a generator, `tganv2_tf.score(...)` scores one. `python -m tganv2_tf` lists the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tganv2_tf import lanes

if TYPE_CHECKING:
    from tganv2_tf.api import load, score

if lanes.python_fault():
    raise SystemExit(lanes.python_fault())
lanes.prepare()

__version__ = "0.1.0"
__all__ = ["__version__", "load", "score"]


def __getattr__(name: str) -> Any:
    """Imports the functions when they are asked for: the package is imported by commands that need neither."""
    if name in ("load", "score"):
        from tganv2_tf import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
