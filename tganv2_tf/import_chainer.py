"""Converts the authors' Chainer snapshots to a run.

python -m tganv2_tf.import_chainer --generator=gen_iter_82000.npz --step=82000 --model_dir=runs/official
python -m tganv2_tf.generate --model_dir=runs/official --output=samples.gif
Snapshots of TGAN, the earlier system of the same authors:
  python -m tganv2_tf.import_chainer --generator=vgen_iter_100000.npz --temporal_generator=gen_iter_100000.npz \\
    --discriminator=vdis_iter_100000.npz --step=100000 --model_dir=runs/tgan
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

from absl import logging

from tganv2_tf import cli
from tganv2_tf.config import MODEL_OPTIONS, Config, DataConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.interop import chainer, tgan
from tganv2_tf.options import option, require
from tganv2_tf.runs import Run, record_config


@dataclasses.dataclass(frozen=True)
class Command:
    """Snapshots to read, and the new run."""

    generator: str = option("the authors' snapshot of a generator, .npz; for TGAN its image generator")
    model_dir: str = option("folder of the new run; it must not contain one yet", destination="folder")
    discriminator: str = option("the authors' snapshot of the discriminators, .npz; none = new, untrained ones", "")
    temporal_generator: str = option("TGAN's snapshot of the temporal generator, .npz; none = TGANv2", "")
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
        if self.temporal_generator:
            valid = "none with --temporal_generator: TGAN has 16 frames and one level"
            require(self.num_frames == 16, "num_frames", self.num_frames, "16 with --temporal_generator")
            for name in ("frame_strides", "batch_strides", "discriminator_channels"):
                require(not getattr(self, name), name, getattr(self, name), valid)


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


def tganv2_networks(command: Command) -> tuple[Config, dict[str, Any]]:
    """Returns the config of the new run, and the networks that were read, by name."""
    generator = chainer.load_generator(
        command.generator, command.num_frames, command.frame_strides or None, command.batch_strides or None
    )
    networks, shape = {"generator": generator}, generator.config
    last = shape.up_channels[-1]
    channels = command.discriminator_channels or tuple(last * factor for factor in (2, 4, 8, 16, 32))
    if command.discriminator:
        discriminator = networks["discriminator"] = chainer.load_discriminator(command.discriminator)
        levels = len(discriminator.level_discriminators)
        if levels != shape.pyramid.num_levels:
            raise UserError(
                f"{command.discriminator}: {levels} levels, and {command.generator} has {shape.pyramid.num_levels}"
            )
        channels = discriminator.config.discriminator_channels
    return run_config(command, dataclasses.replace(shape, discriminator_channels=channels)), networks


def tgan_networks(command: Command) -> tuple[Config, dict[str, Any]]:
    """Returns the config of the new run, with TGAN's defaults, and the networks that were read, by name."""
    generator, discriminator = tgan.load(command.temporal_generator, command.generator, command.discriminator or None)
    options = MODEL_OPTIONS, DataConfig, TrainConfig
    _, data, train = cli.parse(["--system=tgan", f"--model_dir={command.model_dir}"], *options)
    networks = {"generator": generator, **({"discriminator": discriminator} if discriminator else {})}
    return Config(generator.config, data, train), networks


def main(command: Command) -> int:
    from tganv2_tf.training.checkpoints import CheckpointFolder
    from tganv2_tf.training.loop import make_model

    folder = pathlib.Path(command.model_dir)
    run = Run.open(folder)
    if run.exists or run.checkpoint:
        raise ConfigError(f"--model_dir={folder}: already contains a run; valid: a folder without one")
    config, networks = tgan_networks(command) if command.temporal_generator else tganv2_networks(command)
    model = make_model(config)
    for name, network in networks.items():
        model.networks[name].set_weights(network.get_weights())
    if "discriminator" not in networks:
        width = config.model.discriminator_width if config.system == "tgan" else config.model.discriminator_channels
        logging.warning(
            "No --discriminator: new ones, of %s channels. Training resumes against untrained discriminators.",
            str(width).strip("()").replace(" ", ""),
        )
    model.step.assign(command.step)
    # Learning rates decay with the optimizers' step counts. Their moments are not in snapshots and start at zero.
    for optimizer in model.optimizers.values():
        optimizer.iterations.assign(command.step)
    CheckpointFolder(model).save(command.step)
    record_config(config)
    print(f"{folder}: a run at step {command.step}. To resume, with the shards in DATA_DIR:")
    print(f"python -m tganv2_tf.train --data_dir=DATA_DIR {' '.join(config.flags())}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "tganv2_tf.import_chainer", __doc__))
