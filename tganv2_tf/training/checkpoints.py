"""The folder of a run: `config.json`, and checkpoints that hold all that a run needs to go on."""

from __future__ import annotations

import dataclasses
import os
import pathlib

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.data.records import write_atomically
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.tganv2 import TGANv2

CONFIG_FILE = "config.json"
CHECKPOINT_DIR = "checkpoints"


def load_config(model_dir: str) -> Config:
    """The config of a run.

    Raises:
      UserError: no such run.
    """
    path = pathlib.Path(model_dir) / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{model_dir} is not a run: no {CONFIG_FILE} in it; `python -m tganv2_tf.train` makes one")
    return Config.from_json(path.read_text())


def check_run(config: Config) -> None:
    """Makes the folder of a run, or makes sure that the checkpoints there can be gone on from with this config.

    Raises:
      ConfigError: the run there has another model, or other updates a step; the message names the fields.
    """
    folder = pathlib.Path(config.train.model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / CONFIG_FILE).is_file() and latest_checkpoint(folder):
        old = load_config(config.train.model_dir)
        differing = [
            f"--{field.name}={getattr(config.model, field.name)} (the run has {getattr(old.model, field.name)})"
            for field in dataclasses.fields(old.model)
            if getattr(config.model, field.name) != getattr(old.model, field.name)
        ]
        if config.train.n_dis != old.train.n_dis:  # the rates' schedules count the updates
            differing.append(f"--n_dis={config.train.n_dis} (the run has {old.train.n_dis})")
        if bool(config.train.ema_decay) != bool(old.train.ema_decay):  # with and without an averaged generator
            differing.append(f"--ema_decay={config.train.ema_decay} (the run has {old.train.ema_decay})")
        if differing:
            raise ConfigError(f"{folder} holds another run: {', '.join(differing)}; choose another --model_dir")


def record_config(config: Config) -> None:
    """Writes the run's `config.json`."""
    write_atomically(pathlib.Path(config.train.model_dir) / CONFIG_FILE, config.to_json())


def latest_checkpoint(model_dir: str | os.PathLike[str]) -> str | None:
    """Prefix of the newest checkpoint of a run."""
    return tf.train.latest_checkpoint(os.path.join(model_dir, CHECKPOINT_DIR))


def checkpoint_manager(model: TGANv2) -> tf.train.CheckpointManager:
    """Saves and restores a compiled model: networks, averaged generator, optimisers and step.

    The seeds are the config's, and every random number is drawn from them and the step.
    """
    train = model.config.train
    checkpoint = tf.train.Checkpoint(
        generator=model.generator,
        discriminator=model.discriminator,
        ema_generator=model.ema_generator,
        generator_optimizer=model.generator_optimizer,
        discriminator_optimizer=model.discriminator_optimizer,
        step=model.step,
    )
    folder = os.path.join(train.model_dir, CHECKPOINT_DIR)
    return tf.train.CheckpointManager(checkpoint, folder, train.keep_checkpoints, step_counter=model.step)


def load_generator(model_dir: str) -> tuple[Generator, Config, int]:
    """The averaged generator of a run's newest checkpoint, the run's config, and the step.

    Raises:
      UserError: no such run, or no checkpoint in it, or a damaged one.
    """
    config = load_config(model_dir)
    path = latest_checkpoint(model_dir)
    if path is None:
        raise UserError(f"{model_dir} has no checkpoint yet; train it for at least --checkpoint_every_steps steps")
    generator = Generator(config.model)
    step = tf.Variable(0, dtype=tf.int64)
    try:
        status = tf.train.Checkpoint(ema_generator=generator, step=step).restore(path)
        status.assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
        raise UserError(f"{path}: the checkpoint cannot be read: {' '.join(str(error).split())[:300]}") from error
    return generator, config, int(step)
