"""Systems that can be trained: TGANv2 and those it is compared with (arXiv 1811.09245, Table 2).

A system is a folder with two modules. `config.py` has its settings, `ModelConfig`, and imports no TensorFlow.
`model.py` has the training of its networks, `Model`, a subclass of `models.adversary.Adversary`. Training, checkpoints,
sampling, export and scores use only these two.
"""

from __future__ import annotations

import importlib
from typing import Any

from tganv2_tf.systems.system_config import SystemConfig

SYSTEMS = ("tganv2", "vgan", "tgan", "mocogan", "progressive_vgan")


def config_class(system: str) -> type[SystemConfig]:
    """Returns the settings' class of a system, given its name in `SYSTEMS`."""
    return _module(system, "config").ModelConfig


def model_class(system: str) -> Any:
    """Returns the subclass of `Adversary` of a system, given its name in `SYSTEMS`. Imports TensorFlow."""
    return _module(system, "model").Model


def _module(system: str, name: str) -> Any:
    if system not in SYSTEMS:  # the name becomes part of a module's
        raise ValueError(f"unknown system {system}; valid: {', '.join(SYSTEMS)}")
    return importlib.import_module(f"tganv2_tf.systems.{system}.{name}")
