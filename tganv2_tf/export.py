"""Exports a run's averaged generator as a SavedModel that TensorFlow Serving, or TensorFlow alone, can run.

python -m tganv2_tf.export --model_dir=runs/ucf101 --output_dir=saved_models/ucf101
"""

from __future__ import annotations

import dataclasses
import sys

from absl import logging

from tganv2_tf import cli_flags
from tganv2_tf.config import option, require
from tganv2_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Command:
    """Command."""

    model_dir: str = option("a run, RUN/best, or a checkpoint such as RUN/snapshots/ckpt-10000")
    output_dir: str = option("folder of the model's versions, such as saved_models/NAME")
    version: int = option("number of the version; 0 = the next one", 0)

    def __post_init__(self) -> None:
        require(self.version >= 0, "version", self.version, "a whole number of at least 1, or 0 for the next one")


def main(command: Command) -> int:
    import tensorflow as tf

    from tganv2_tf.serving.signatures import export
    from tganv2_tf.training.checkpoints import load_generator

    logging.set_verbosity(logging.WARNING)  # TensorFlow lists every renamed input of every signature
    generator, _, step = load_generator(command.model_dir)
    try:
        path = export(generator, command.output_dir, command.version or None)
    except tf.errors.OpError as error:  # a full disk, for one
        raise UserError(f"--output_dir={command.output_dir}: {error.message.splitlines()[0]}") from error
    print(f"{path}: the generator of step {step}")
    return 0


if __name__ == "__main__":
    sys.exit(cli_flags.run(main, (Command,), "tganv2_tf.export", __doc__))
