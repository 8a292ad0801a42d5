"""Exports a run's averaged generator as a SavedModel for TensorFlow Serving, or for TensorFlow alone.

python -m tganv2_tf.export --model_dir=runs/ucf101 --output_dir=saved_models/ucf101
python -m tganv2_tf.export --model_dir=runs/ucf101/best --weights_only --output_dir=to_share/ucf101

With --weights_only, it writes a small run that contains only the averaged generator, without optimizers, discriminators
or local paths. The commands generate, evaluate, explore, project and export accept it as --model_dir.
"""

from __future__ import annotations

import dataclasses
import sys

from absl import logging

from tganv2_tf import cli, storage
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require


@dataclasses.dataclass(frozen=True)
class Command:
    """Generator to export, and target folder."""

    model_dir: str = option("a run, RUN/best, or a checkpoint such as RUN/snapshots/ckpt-10000")
    output_dir: str = option(
        "folder of the model's versions, such as saved_models/NAME; with --weights_only a new one", destination="folder"
    )
    version: int = option("number of the version; 0 = the next one", 0)
    weights_only: bool = option("write a run with only the averaged generator, instead of a SavedModel", False)
    recalibration_batches: int = option(
        "batches from which batch-norm statistics are recomputed before the export; 0 = keep those of training", 0
    )

    def __post_init__(self) -> None:
        require(not self.version or not self.weights_only, "version", self.version, "0 with --weights_only")
        value = self.recalibration_batches
        require(value >= 0, "recalibration_batches", value, "a whole number of at least 0")
        require(self.version >= 0, "version", self.version, "a whole number of at least 1, or 0 for the next one")


def require_new(command: Command) -> None:
    """Raises UserError if the target already exists."""
    target, advice = command.output_dir, "choose a new folder"
    if not command.weights_only:
        target, advice = storage.join(target, str(command.version)), "omit --version to write the next one"
    if (command.weights_only or command.version) and storage.exists(target):
        raise UserError(f"{target} already exists; {advice}")


def main(command: Command) -> int:
    require_new(command)
    import tensorflow as tf

    from tganv2_tf.models.recalibration import recalibrate
    from tganv2_tf.pretrained import load_generator, save_generator
    from tganv2_tf.runs import Run
    from tganv2_tf.serving.signatures import export

    logging.set_verbosity(logging.WARNING)  # TensorFlow logs every renamed input of every signature
    run = Run.open(command.model_dir)
    generator, step = load_generator(run)
    if command.recalibration_batches:
        recalibrate(generator, command.recalibration_batches, run.config.train.seed)
    try:
        if command.weights_only:
            save_generator(generator, run, step, command.output_dir)
            path = command.output_dir
        else:
            path = str(export(generator, command.output_dir, command.version or None, run.class_names, run.fps))
    except tf.errors.OpError as error:  # e.g. a full disk
        reason = error.message.splitlines()[0].rpartition("}} ")[2]  # removes the name of the operation
        raise UserError(f"--output_dir={command.output_dir}: {reason}") from error
    print(f"{path}: the generator of step {step}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "tganv2_tf.export", __doc__))
