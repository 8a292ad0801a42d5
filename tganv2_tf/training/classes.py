"""Checks that labels keep their meaning: compares the data's class names with those recorded in the run."""

from __future__ import annotations

from collections.abc import Sequence

from absl import logging

from tganv2_tf import storage
from tganv2_tf.config import Config
from tganv2_tf.data.class_names import difference
from tganv2_tf.errors import ConfigError
from tganv2_tf.runs import BEST_DIR, CHECKPOINT_DIR, CLASSES_FILE, SNAPSHOT_DIR, Run, checkpoints_in


def check_classes(config: Config, class_names: Sequence[str]) -> None:
    """Checks that labels have the same meaning in the data and in the checkpoints in `model_dir`, if any.

    Args:
      config: Configuration of the run to train.
      class_names: Class names of its data, in the order of labels.
    Raises:
      ConfigError: Classes or their order differ; the message names the difference.
      UserError: The recorded names in `model_dir` are damaged.
    """
    folder = config.train.model_dir
    # Snapshots use the recorded names too, and may exist without other checkpoints.
    saved = (storage.join(folder, name) for name in (CHECKPOINT_DIR, SNAPSHOT_DIR, BEST_DIR))
    if not config.model.conditional or not any(map(checkpoints_in, saved)):
        return
    found = _difference(folder, class_names)
    if found:
        raise ConfigError(
            f"{folder} contains a run with other classes than --data_dir={config.data.data_dir}: {found}; choose the "
            "run's original data, or another --model_dir"
        )


def warn_of_other_classes(config: Config, class_names: Sequence[str]) -> None:
    """Logs a warning if the classes of `init_from` differ from those of the data. Args: see `check_classes`.

    Raises:
      UserError: The recorded names in the folder of `init_from` are damaged.
    """
    source = config.train.init_from
    found = config.model.conditional and _difference(source, class_names)
    if found:
        logging.warning(
            "--init_from=%s: its classes differ from those of --data_dir=%s: %s. Each label starts with the weights of "
            "the same label in --init_from.",
            source,
            config.data.data_dir,
            found,
        )


def _difference(name: str, class_names: Sequence[str]) -> str:
    """Describes how the classes of a run or checkpoint differ from these; empty if they do not, or if unknown."""
    run = Run.open(name)
    if not run.exists or not run.config.model.conditional:
        return ""
    path = storage.join(run.folder, CLASSES_FILE)
    if not storage.exists(path):
        logging.warning("%s: missing; the run's classes are assumed to be those of the data.", path)
        return ""
    return difference(run.class_names, class_names, "the run", "the data")
