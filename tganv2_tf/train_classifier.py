"""Trains a classifier of labelled videos, a C3D, for scores on data that the authors' C3D does not know.

python -m tganv2_tf.train_classifier --data_dir=data/train --test_data_dir=data/test --output=classifier.npz
"""

from __future__ import annotations

import dataclasses
import sys

from tganv2_tf import cli_flags
from tganv2_tf.config import option, require
from tganv2_tf.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Command:
    """Videos and classifier."""

    data_dir: str = option("folder of the labelled shards to train on")
    test_data_dir: str = option("folder of the shards, of the same classes, that its accuracy is measured on")
    output: str = option(
        "file to write, .npz; until it is whole, what is needed to go on is in OUTPUT.unfinished", destination="file"
    )
    size: str = option("small: 32 pixels, few channels; full: C3D as published, 112 pixels", "small", ("small", "full"))
    steps: int = option("updates", 600)
    batch_size: int = option("clips a step", 32)
    learning_rate: float = option("Adam's step size at first, which falls to 0; for --size=full try 1e-4", 1e-3)
    flip: bool = option("mirror half of the clips; not where left and right tell classes apart", False)
    seed: int = option("seed of initial weights, data order, windows and dropout", 0)
    checkpoint_every_steps: int = option(
        "steps between two saved states, from which the same command resumes; 0 = only where it is stopped", 200
    )

    def __post_init__(self) -> None:
        if not self.output.endswith(".npz"):
            raise ConfigError(f"--output={self.output}: valid: a file name that ends in .npz")
        require("://" not in self.output, "output", self.output, "a file of this machine")
        for name, least in (("steps", 1), ("batch_size", 1), ("checkpoint_every_steps", 0)):
            require(getattr(self, name) >= least, name, getattr(self, name), f"a whole number of at least {least}")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a number above 0")
        require(0 <= self.seed < 2**31, "seed", self.seed, "a whole number from 0 up to 2147483647")


def main(command: Command) -> int:
    from tganv2_tf.evaluation import classifier  # TensorFlow, once the flags are known to be right

    return classifier.train(**dataclasses.asdict(command))


if __name__ == "__main__":
    sys.exit(cli_flags.run(main, (Command,), "tganv2_tf.train_classifier", __doc__))
