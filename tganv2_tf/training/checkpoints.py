"""The folder of a run: `config.json`, and checkpoints that hold all that a run needs to go on."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.data.manifest import checksum
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.files import write_atomically
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.tganv2 import TGANv2

CONFIG_FILE = "config.json"
CLASSES_FILE = "classes.json"
CHECKPOINT_DIR = "checkpoints"
EVENTS_DIR = "events"
SNAPSHOT_DIR = "snapshots"
BEST_DIR = "best"
BEST_FILE = "best.json"
# What a network's weights depend on; the other fields of a model may differ from those of a run that it begins with.
SHAPES = (
    "resolution",
    "z_dim",
    "lstm_channels",
    "lstm_layers",
    "up_channels",
    "discriminator_channels",
    "spectral_norm",
    "conditional",
    "num_classes",
)


def load_config(model_dir: str) -> Config:
    """The config of a run.

    Raises:
      UserError: no such run.
    """
    path = pathlib.Path(model_dir) / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{model_dir} is not a run: no {CONFIG_FILE} in it; `python -m tganv2_tf.train` makes one")
    return Config.from_json(path.read_text())


def check_run(config: Config) -> list[str]:
    """Makes sure that the checkpoints in `model_dir`, if any, can be gone on from with this config.

    Returns:
      The settings that differ from the run's and may, as `--name=value (the run has value)`.
    Raises:
      ConfigError: the run there has another model, or other updates a step; the message names the fields.
    """
    folder = pathlib.Path(config.train.model_dir)
    if not (folder / CONFIG_FILE).is_file() or not latest_checkpoint(folder):
        return []
    old = load_config(config.train.model_dir)
    refused = differences(config.model, old.model, "the run has")
    allowed = differences(config.data, old.data, "the run has")
    for name, text in differences(config.train, old.train, "the run has").items():
        now, before = getattr(config.train, name), getattr(old.train, name)
        if (
            name == "n_dis"  # the rates' schedules count the updates
            or (name == "ema_decay" and bool(now) != bool(before))  # with and without an averaged generator
            or (name == "mixed_precision" and "mixed_float16" in (now, before))  # with and without a loss scale
        ):
            refused[name] = text
        else:
            allowed[name] = text
    allowed |= differences(config.eval, old.eval, "the run has")
    if refused:
        raise ConfigError(f"{folder} holds another run: {', '.join(refused.values())}; choose another --model_dir")
    return list(allowed.values())


def differences(now: Any, before: Any, whose: str) -> dict[str, str]:
    """`--name=value (whose value)` of each field in which two configs of a kind differ, by name."""

    def shown(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return {
        field.name: f"--{field.name}={shown(getattr(now, field.name))} ({whose} {shown(getattr(before, field.name))})"
        for field in dataclasses.fields(now)
        if getattr(now, field.name) != getattr(before, field.name)
    }


def record_config(config: Config, class_names: Sequence[str] = (), folder: str = "") -> None:
    """Writes the run's `config.json`, and the class names of a conditional model, into its folder or another one."""
    path = pathlib.Path(folder or config.train.model_dir)
    if config.model.conditional:
        write_atomically(path / CLASSES_FILE, json.dumps(list(class_names), indent=2) + "\n")
    write_atomically(path / CONFIG_FILE, config.to_json())


def load_class_names(name: str) -> tuple[str, ...]:
    """The classes of a run, or of a checkpoint of one, in the order of their labels; none of an unconditional model.

    Raises:
      UserError: no such run, or the file with the names is damaged.
    """
    folder = run_folder(name)
    num_classes = load_config(str(folder)).model.num_classes
    if not num_classes:
        return ()
    path = folder / CLASSES_FILE
    try:
        names = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(names, list) or len(names) != num_classes or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: not a list of the {num_classes} names of the run's classes")
    return tuple(names)


def latest_checkpoint(model_dir: str | os.PathLike[str]) -> str | None:
    """Prefix of the newest checkpoint of a run."""
    return tf.train.latest_checkpoint(os.path.join(model_dir, CHECKPOINT_DIR))


def checkpoint_manager(model: TGANv2, folder: str | None = None) -> tf.train.CheckpointManager:
    """Saves and restores a compiled model: networks, averaged generator, optimisers and step.

    The seeds are the config's, and every random number is drawn from them and the step.

    Args:
      model: in training.
      folder: of the checkpoints; the run's where it is None.
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
    folder = folder or os.path.join(train.model_dir, CHECKPOINT_DIR)
    return tf.train.CheckpointManager(checkpoint, folder, train.keep_checkpoints, step_counter=model.step)


def restore(checkpoint: tf.train.Checkpoint, path: str) -> None:
    """Reads all that the objects need from a checkpoint, which may hold more.

    Raises:
      UserError: it is damaged, or of another model.
    """
    try:
        checkpoint.restore(path).expect_partial().assert_existing_objects_matched()
    except (tf.errors.OpError, AssertionError, ValueError, IndexError) as error:  # the last of a file that breaks off
        raise UserError(f"{path}: the checkpoint cannot be read: {' '.join(str(error).split())[:300]}") from error


def keep_for_ever(path: str, folder: str = SNAPSHOT_DIR) -> None:
    """Gives the files of a checkpoint a second name in another folder of the run, where training deletes nothing.

    Raises:
      OSError: that cannot be written.
    """
    source = pathlib.Path(path)
    target = source.parent.parent / folder
    target.mkdir(exist_ok=True)
    # The index comes last: only with it the files are a checkpoint.
    for file in sorted(source.parent.glob(f"{source.name}.*"), key=lambda file: file.suffix == ".index"):
        temporary = target / f".{file.name}"
        temporary.unlink(missing_ok=True)
        try:
            os.link(file, temporary)
        except OSError:  # not every file system has links
            shutil.copyfile(file, temporary)
        os.replace(temporary, target / file.name)


def best_score(model_dir: str, name: str, protocol: str) -> float | None:
    """The score of the checkpoint in `best/`; None where there is none, or one that cannot be compared.

    Args:
      model_dir: the run.
      name: of the score.
      protocol: a digest of all that scores depend on besides the checkpoint.
    Raises:
      UserError: its file cannot be read.
    """
    path = pathlib.Path(model_dir) / BEST_DIR / BEST_FILE
    if not path.is_file():
        return None
    try:
        best = json.loads(path.read_text())
        return float(best["value"]) if (best["score"], best["protocol"]) == (name, protocol) else None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read: {error}; delete it, and the next evaluation writes it anew"
        ) from error


def keep_best(path: str, name: str, value: float, protocol: str) -> None:
    """Keeps a checkpoint in `best/`, instead of the one that is there.

    Raises:
      OSError: that cannot be written.
    """
    keep_for_ever(path, BEST_DIR)
    newest = pathlib.Path(path).name
    folder = pathlib.Path(path).parent.parent / BEST_DIR
    best = {"checkpoint": newest, "score": name, "value": value, "protocol": protocol}
    write_atomically(folder / BEST_FILE, json.dumps(best, indent=2) + "\n")
    for file in folder.glob("ckpt-*"):
        if file.name.partition(".")[0] != newest:
            file.unlink()


def find_checkpoint(name: str) -> str | None:
    """The prefix of a checkpoint's files.

    Args:
      name: a run's folder, whose newest one is meant, RUN/best, or the prefix itself, such as RUN/snapshots/ckpt-1000.
    Returns:
      None where there is none.
    """
    prefix = re.sub(r"\.index$", "", name)
    if os.path.isfile(f"{prefix}.index"):
        return prefix
    if not os.path.isdir(name):
        return None
    steps = {int(match[1]) for file in os.listdir(name) if (match := re.fullmatch(r"ckpt-(\d+)\.index", file))}
    return os.path.join(name, f"ckpt-{max(steps)}") if steps else latest_checkpoint(name)


def checksums(name: str) -> dict[str, str]:
    """Of the files of the checkpoint that `find_checkpoint` finds, by their names."""
    found = pathlib.Path(find_checkpoint(name) or name)
    return {file.name: checksum(file) for file in sorted(found.parent.glob(f"{found.name}.*"))}


def run_folder(name: str) -> pathlib.Path:
    """The folder of the run that `find_checkpoint` would look into."""
    if os.path.isfile(os.path.join(name, CONFIG_FILE)):
        return pathlib.Path(name)
    found = find_checkpoint(name)
    return pathlib.Path(name) if found is None else pathlib.Path(found).parent.parent


def initialize(model: TGANv2) -> str:
    """Gives the networks of a new run the weights in `init_from`; optimisers and step begin anew.

    Returns:
      The checkpoint that was read.
    Raises:
      ConfigError: there is none, or its networks have other shapes; the message names what differs.
      UserError: it is damaged.
    """
    config = model.config
    path = find_checkpoint(config.train.init_from)
    if path is None:
        raise ConfigError(
            f"--init_from={config.train.init_from}: no checkpoint there; valid: the folder of a run, RUN/{BEST_DIR}, "
            f"or RUN/{SNAPSHOT_DIR}/ckpt-STEP"
        )
    source = str(run_folder(config.train.init_from))
    other = differences(config.model, load_config(source).model, "there")
    shapes = [text for name, text in other.items() if name in SHAPES]
    if shapes:
        raise ConfigError(f"--init_from={config.train.init_from}: its networks have other shapes: {', '.join(shapes)}")
    networks = {"generator": model.generator, "discriminator": model.discriminator}
    if model.ema_generator is not model.generator:
        networks["ema_generator"] = model.ema_generator
    for name, network in networks.items():
        # One by one: in a run without averaging two of the names stand for the same network.
        restore(tf.train.Checkpoint(**{name: network}), path)
    return path


def save_generator(
    generator: Generator, config: Config, class_names: Sequence[str], step: int, folder: str | os.PathLike[str]
) -> None:
    """Writes an averaged generator alone, as a small run that whatever generates takes.

    It cannot be trained on: discriminators and optimisers are left out.

    Args:
      generator, config, step: from `load_generator`.
      class_names: from `load_class_names`.
      folder: appears only when it is whole.
    Raises:
      UserError: the folder is there already.
    """
    target = pathlib.Path(folder)
    if target.exists():
        raise UserError(f"{target} is already there; name a new folder")
    # Where the run, its data and its classifier were is nobody's business.
    train = dataclasses.replace(config.train, model_dir="", init_from="", eval_every_steps=0)
    data, scores = dataclasses.replace(config.data, data_dir=""), dataclasses.replace(config.eval, cache_dir="")
    scores = dataclasses.replace(scores, classifier="", c3d_mean="")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".unfinished-", dir=target.parent)
    try:
        record_config(Config(config.model, data, train, scores), class_names, temporary)
        weights = tf.train.Checkpoint(ema_generator=generator, step=tf.Variable(step, dtype=tf.int64))
        tf.train.CheckpointManager(weights, os.path.join(temporary, CHECKPOINT_DIR), None).save(step)
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_generator(name: str) -> tuple[Generator, Config, int]:
    """The averaged generator of a run, the run's config, and the step.

    Args:
      name: the run's folder, for its newest checkpoint, or a checkpoint as `find_checkpoint` knows it.
    Raises:
      UserError: no such run, or no checkpoint in it, or a damaged one.
    """
    path = find_checkpoint(name)
    config = load_config(str(run_folder(name)))
    if path is None:
        raise UserError(f"{name} has no checkpoint yet; train it for at least --checkpoint_every_steps steps")
    generator = Generator(config.model)
    step = tf.Variable(0, dtype=tf.int64)
    restore(tf.train.Checkpoint(ema_generator=generator, step=step), path)
    return generator, config, int(step)
