"""Converts the authors' Chainer snapshots to a run.

python -m tganv2_tf.import_chainer --generator=gen_iter_82000.npz --step=82000 --model_dir=runs/official
python -m tganv2_tf.generate --model_dir=runs/official --output=samples.gif
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from absl import logging

from tganv2_tf import cli
from tganv2_tf.config import Config, DataConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.interop import chainer
from tganv2_tf.options import option, require
from tganv2_tf.runs import Run, record_config


@dataclasses.dataclass(frozen=True)
class Command:
    """Snapshots to read, and the new run."""

    generator: str = option("the authors' snapshot of a generator, .npz")
    model_dir: str = option("folder of the new run; it must not contain one yet", destination="folder")
    discriminator: str = option("the authors' snapshot of the discriminators, .npz; none = new, untrained ones", "")
    step: int = option("training step of the snapshot; the learning rates resume from there", 0)
    num_frames: int = option("frames of a training clip", 16)
    frame_strides: tuple[int, ...] = option("frame stride after each level but the last; none = 2 each", ())
    batch_strides: tuple[int, ...] = option("batch stride after each level but the last; none = 1 each", ())
    discriminator_channels: tuple[int, ...] = option(
        "block channels of new discriminators; none = 2,4,8,16,32 times the generator's last, as the authors",
        (),
    )

    def __post_init__(self) -> None:
        require(self.step >= 0, "step", self.step, "a whole number of at least 0")
        require(bool(self.model_dir), "model_dir", self.model_dir, "the folder of the new run")
        if self.discriminator and self.discriminator_channels:
            raise ConfigError("--discriminator_channels is for new discriminators only; --discriminator has its own")


def run_config(command: Command, model: ModelConfig) -> Config:
    """Returns the config of the new run: the authors' recipe, as in flags/official_ucf.flags.

    There is no averaged generator (`ema_decay` is 0): a snapshot contains none. `generate` and `export` use the weights
    of the file, and `train` continues with the official recipe unchanged. To train with an average that starts from
    these weights, use `--init_from`.
    """
    return Config(
        model,
        DataConfig(normalization="official"),
        TrainConfig(
            model_dir=command.model_dir,
            global_batch_size=128,
            score="separate",
            r1_weight=16.0,
            ema_decay=0.0,
        ),
    )


def main(command: Command) -> int:
    from tganv2_tf.training.checkpoints import CheckpointFolder
    from tganv2_tf.training.loop import make_model

    folder = pathlib.Path(command.model_dir)
    run = Run.open(folder)
    if run.exists or run.checkpoint:
        raise ConfigError(f"--model_dir={folder}: already contains a run; valid: a folder without one")
    generator = chainer.load_generator(
        command.generator, command.num_frames, command.frame_strides or None, command.batch_strides or None
    )
    shape, discriminator = generator.config, None
    last = shape.up_channels[-1]
    channels = command.discriminator_channels or tuple(last * factor for factor in (2, 4, 8, 16, 32))
    if command.discriminator:
        discriminator = chainer.load_discriminator(command.discriminator)
        levels = len(discriminator.level_discriminators)
        if levels != shape.pyramid.num_levels:
            raise UserError(
                f"{command.discriminator}: {levels} levels, and {command.generator} has {shape.pyramid.num_levels}"
            )
        channels = discriminator.config.discriminator_channels
    config = run_config(command, dataclasses.replace(shape, discriminator_channels=channels))
    model = make_model(config)
    model.generator.set_weights(generator.get_weights())
    if discriminator is None:
        logging.warning(
            "No --discriminator: new ones, of %s channels. Training resumes against untrained discriminators.",
            ",".join(map(str, channels)),
        )
    else:
        model.discriminator.set_weights(discriminator.get_weights())
    model.step.assign(command.step)
    # Learning rates decay with the optimizers' step counts. Adam's moments are not in snapshots and start at zero.
    for optimizer in (model.generator_optimizer, model.discriminator_optimizer):
        optimizer.iterations.assign(command.step)
    CheckpointFolder(model).save(command.step)
    record_config(config)
    print(f"{folder}: a run at step {command.step}. To resume, with the shards in DATA_DIR:")
    print(f"python -m tganv2_tf.train --data_dir=DATA_DIR {' '.join(config.flags())}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "tganv2_tf.import_chainer", __doc__))
