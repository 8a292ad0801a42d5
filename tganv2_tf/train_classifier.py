"""Trains a C3D classifier on labelled videos, for scores on data other than UCF101.

python -m tganv2_tf.train_classifier --data_dir=data/train --test_data_dir=data/test --output=classifier.npz

A tenth of the videos is held out (of UCF101, whole source groups). Training stops when the accuracy on them no longer
rises; the weights with the highest accuracy are kept. The file records the accuracy on --test_data_dir; if it is low,
this command and all commands that score with the file warn of it.
"""

from __future__ import annotations

import dataclasses
import sys

from tganv2_tf import cli
from tganv2_tf.errors import ConfigError
from tganv2_tf.options import option, require


@dataclasses.dataclass(frozen=True)
class Command:
    """Videos and classifier."""

    data_dir: str = option("folder of the labelled shards to train on")
    output: str = option(
        "file to write, .npz; until it is complete, OUTPUT.unfinished holds the training state",
        destination="file",
    )
    test_data_dir: str = option(
        "folder of test shards, with the same classes; none = the tenth of --data_dir that is held out for early "
        "stopping",
        "",
    )
    size: str = option("small: 32 pixels, few channels; full: C3D as published, 112 pixels", "small", ("small", "full"))
    steps: int = option("maximum updates", 3000)
    patience: int = option(
        "stop after this many validations, 50 steps or an epoch apart, without a higher accuracy on held-out videos; "
        "0 = run all --steps",
        6,
    )
    batch_size: int = option("clips per step", 32)
    learning_rate: float = option("learning rate of Adam; for --size=full try 1e-4", 1e-3)
    flip: bool = option("mirror half of the clips; not if left and right distinguish classes", False)
    seed: int = option("seed of initial weights, data order, windows and dropout", 0)
    checkpoint_every_steps: int = option(
        "steps between two checkpoints, from which the same command resumes; 0 = only when it is stopped", 200
    )

    def __post_init__(self) -> None:
        if not self.output.endswith(".npz"):
            raise ConfigError(f"--output={self.output}: valid: a file name that ends in .npz")
        require("://" not in self.output, "output", self.output, "a file on this machine")
        for name, least in (("steps", 1), ("batch_size", 1), ("checkpoint_every_steps", 0)):
            require(getattr(self, name) >= least, name, getattr(self, name), f"a whole number of at least {least}")
        require(self.patience >= 0, "patience", self.patience, "a whole number of at least 0")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a number above 0")
        require(0 <= self.seed < 2**31, "seed", self.seed, "a whole number from 0 up to 2147483647")


def main(command: Command) -> int:
    from tganv2_tf.training.classifiers import classifier_training  # imports TensorFlow: after the checks of the flags

    return classifier_training.train(**dataclasses.asdict(command))


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "tganv2_tf.train_classifier", __doc__))
