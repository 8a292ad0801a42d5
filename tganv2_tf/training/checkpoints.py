"""The folder of a run: `config.json`, and checkpoints that hold all that a run needs to go on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf import storage
from tganv2_tf.config import Config
from tganv2_tf.data.manifest import checksum
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.files import sync_folder, write_atomically
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.loss_scaling import uses_loss_scaling
from tganv2_tf.models.tganv2 import TGANv2

CONFIG_FILE = "config.json"
CLASSES_FILE = "classes.json"
DATA_FILE = "data.json"  # what a run keeps of its data set
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
    try:
        return Config.from_json(storage.read_text(storage.join(model_dir, CONFIG_FILE)))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not storage.exists(model_dir) and not storage.is_read_only(model_dir):
            raise UserError(f"{model_dir}: no such folder, and no checkpoint") from error
        text = f"{model_dir} is not a run: no {CONFIG_FILE} in it; `python -m tganv2_tf.train` makes one"
        raise UserError(text) from error
    except OSError as error:
        raise UserError(f"{storage.join(model_dir, CONFIG_FILE)}: cannot be read: {error.strerror or error}") from error


def check_run(config: Config) -> list[str]:
    """Makes sure that the checkpoints in `model_dir`, if any, can be gone on from with this config.

    Returns:
      The settings that differ from the run's and may, as `--name=value (the run has value)`.
    Raises:
      ConfigError: the run there has another model, or other updates a step; the message names the fields.
    """
    folder = config.train.model_dir
    if not storage.exists(storage.join(folder, CONFIG_FILE)) or not latest_checkpoint(folder):
        return []
    old = load_config(folder)
    refused = differences(config.model, old.model, "the run has")
    allowed = differences(config.data, old.data, "the run has")
    allowed.pop("data_prep", None)  # it changes messages only
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


def record_config(config: Config, class_names: Sequence[str] = (), folder: str = "", fps: float = 0.0) -> None:
    """Writes what must be known of a run into its folder or another one: `config.json`, and two files more.

    Args:
      config: of the run.
      class_names: of a conditional model, for `classes.json`.
      folder: instead of the run's own.
      fps: frames per second of a generated video, for `data.json`; 0 = unknown.
    """
    folder = folder or config.train.model_dir
    if fps:
        write_atomically(storage.join(folder, DATA_FILE), json.dumps({"fps": fps}) + "\n")
    if config.model.conditional:
        write_atomically(storage.join(folder, CLASSES_FILE), json.dumps(list(class_names), indent=2) + "\n")
    write_atomically(storage.join(folder, CONFIG_FILE), config.to_json())


def load_class_names(name: str) -> tuple[str, ...]:
    """The classes of a run, or of a checkpoint of one, in the order of their labels; none of an unconditional model.

    Raises:
      UserError: no such run, or the file with the names is damaged.
    """
    folder = run_folder(name)
    num_classes = load_config(folder).model.num_classes
    if not num_classes:
        return ()
    path = storage.join(folder, CLASSES_FILE)
    try:
        names = json.loads(storage.read_text(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(names, list) or len(names) != num_classes or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: not a list of the {num_classes} names of the run's classes")
    return tuple(names)


def load_fps(name: str) -> float:
    """Frames per second of the clips that a run, or a checkpoint of one, was trained on; 0 if unknown.

    Raises:
      UserError: no such run, or the file with the rate is damaged.
    """
    path = storage.join(run_folder(name), DATA_FILE)
    if not storage.exists(path):  # a run of an older version
        return 0.0
    try:
        return float(json.loads(storage.read_text(path))["fps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {error}; delete it, or copy it again") from error


def checkpoints_in(folder: str) -> list[str]:
    """Prefixes of the checkpoints in a folder, the newest first.

    What is there counts, and not TensorFlow's `checkpoint` file, which a power cut can leave empty or behind.
    """
    found = [re.fullmatch(r"ckpt-(\d+)\.index", name) for name in storage.names(folder)]
    numbers = {int(match[1]) for match in found if match}
    return [storage.join(folder, f"ckpt-{number}") for number in sorted(numbers, reverse=True)]


def _step(prefix: str) -> int:
    return int(prefix.rpartition("-")[2])


def _name_newest(prefix: str) -> None:
    """Writes what `tf.train.latest_checkpoint` reads."""
    folder, name = os.path.split(prefix)
    write_atomically(storage.join(folder, "checkpoint"), f'model_checkpoint_path: "{name}"\n')


def latest_checkpoint(model_dir: str | os.PathLike[str]) -> str | None:
    """Prefix of the newest checkpoint of a run."""
    return next(iter(checkpoints_in(storage.join(model_dir, CHECKPOINT_DIR))), None)


def files_of(prefix: str) -> list[str]:
    """The files of a checkpoint; the index, which makes them one, comes last."""
    folder, name = os.path.split(prefix)
    files = [file for file in storage.names(folder) if file.startswith(f"{name}.")]
    return [storage.join(folder, file) for file in sorted(files, key=lambda file: (file.endswith(".index"), file))]


class CheckpointFolder:
    """Saves and restores a compiled model: all that its future depends on, so that it goes on as if never stopped.

    These are the networks, the averaged generator, the optimisers, the step, and where the run is in its data. The
    seeds are the config's, and every random number is drawn from them and these.

    Attributes:
      model: in training.
      folder: of the checkpoints.
      checkpoint: the objects.
    """

    # What checkpoints of older code do not have; and the position's shape is that of the workers.
    OPTIONAL = ("restarts", "data_position", "latest_penalty")

    def __init__(self, model: TGANv2, folder: str | None = None) -> None:
        """
        Args:
          model: in training.
          folder: of the checkpoints; the run's where it is None.
        """
        train = model.config.train
        self.model, self.keep = model, train.keep_checkpoints
        self.folder = folder or storage.join(train.model_dir, CHECKPOINT_DIR)
        self.objects = {
            name: getattr(model, name)
            for name in (
                "generator",
                "discriminator",
                "ema_generator",
                "generator_optimizer",
                "discriminator_optimizer",
                "step",
                *self.OPTIONAL,
            )
        }
        self.checkpoint = tf.train.Checkpoint(**self.objects)
        # TensorFlow keeps some 50 KB of every checkpoint that is written eagerly; but in a function Keras leaves out
        # the loss scales.
        self._write = self._write_checkpoint
        if not uses_loss_scaling(model.generator_optimizer):
            self._write = tf.function(self._write_checkpoint, autograph=False)

    def _write_checkpoint(self, prefix: tf.Tensor) -> None:
        with tf.device(self.model.step.device):  # one device, one file
            self.checkpoint.write(prefix)

    def save(self, step: int) -> str:
        """Writes the checkpoint of a step, and then deletes those that are too old.

        Returns:
          Its prefix.
        Raises:
          OSError, tf.errors.OpError: it cannot be written; those before are all there.
        """
        storage.make_folder(self.folder)
        self._delete(lambda name, there: name not in there)  # what a run that was killed while it saved has left
        prefix = storage.join(self.folder, f"ckpt-{step}")
        if storage.is_remote(self.folder):
            name = os.path.basename(prefix)
            with tempfile.TemporaryDirectory() as local:
                self._write(tf.constant(os.path.join(local, name)))
                storage.copy_folder(local, self.folder, f"{name}.index")
        else:
            self._write_whole(prefix)
        # Those of later steps could not be read, or the run would not be here.
        newest = [other for other in checkpoints_in(self.folder) if _step(other) <= step][: self.keep]
        _name_newest(prefix)
        keep = {os.path.basename(other) for other in newest}
        self._delete(lambda name, there: name not in keep)
        return prefix

    def _write_whole(self, prefix: str) -> None:
        """Writes a checkpoint that bears its name only when it is whole, and on the disk.

        TensorFlow makes an empty index of the final name and then fills it, and leaves it to the system when the files
        get to the disk, which may take half a minute.
        """
        folder = f"{prefix}_partial"
        storage.make_folder(folder)
        self._write(tf.constant(os.path.join(folder, os.path.basename(prefix))))
        for name in sorted(os.listdir(folder), key=lambda name: name.endswith(".index")):  # the index last
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                with open(path, "rb+") as opened:
                    os.fsync(opened.fileno())
                os.replace(path, os.path.join(self.folder, name))
        sync_folder(self.folder)
        storage.remove_folder(folder)

    def _delete(self, unwanted: Callable[[str, set[str]], bool]) -> None:
        """Deletes the files of checkpoints of whose name, among those that have an index, the function says so."""
        there = {os.path.basename(prefix) for prefix in checkpoints_in(self.folder)}
        # The index goes first: without it the others are no checkpoint.
        for name in sorted(storage.names(self.folder), key=lambda name: (not name.endswith(".index"), name)):
            if name.startswith("ckpt-") and unwanted(re.split(r"[._]", name)[0], there):
                path = storage.join(self.folder, name)
                (storage.remove_folder if storage.is_folder(path) else storage.remove)(path)

    def restore(self, prefix: str) -> None:
        """Reads a checkpoint.

        Raises:
          UserError: it is damaged, of another model, or holds numbers that are not finite.
        """
        with readable(prefix) as local:
            shapes = tf.train.load_checkpoint(local).get_variable_to_shape_map()
            found = {name: shapes.get(f"{name}/.ATTRIBUTES/VARIABLE_VALUE") for name in self.OPTIONAL}
            without = [name for name, shape in found.items() if shape != getattr(self.model, name).shape.as_list()]
            read(local, **{name: value for name, value in self.objects.items() if name not in without})
        if "data_position" in without:
            train, position = self.model.config.train, self.model.data_position
            used = int(self.model.step) * train.global_batch_size * train.n_dis
            position.assign(tf.fill(position.shape, tf.cast(used // position.shape[0], tf.int64)))
            logging.warning("%s is of other code or another number of workers; the order of the data is new.", prefix)
        networks = (self.model.generator, self.model.discriminator, self.model.ema_generator)
        for variable in (variable for network in networks for variable in network.variables):
            if not np.isfinite(variable.numpy()).all():
                raise UserError(f"{prefix}: {variable.name} has values that are not finite")

    def newest_step(self) -> int:
        """Step of the newest checkpoint, whether or not it can be read; 0 where there are none."""
        return max(map(_step, checkpoints_in(self.folder)), default=0)

    def restore_newest(self) -> str | None:
        """Reads the newest checkpoint that can be read; says so where it is not the newest.

        Returns:
          Its prefix; None where there are none.
        Raises:
          UserError: not one of them can be read.
        """
        prefixes = checkpoints_in(self.folder)
        restored = next(filter(self._can_restore, prefixes), None)
        if prefixes and not restored:
            raise UserError(
                f"{self.folder}: none of its {len(prefixes)} checkpoints can be read; copy them again, or begin a new "
                f"run with --init_from={os.path.join(os.path.dirname(self.folder), SNAPSHOT_DIR, 'ckpt-STEP')}"
            )
        return restored

    def _can_restore(self, prefix: str) -> bool:
        try:
            self.restore(prefix)
        except UserError as error:
            logging.warning("%s. The run goes back to the checkpoint before it.", error)
            return False
        return True


@contextlib.contextmanager
def readable(prefix: str) -> Iterator[str]:
    """The prefix of a checkpoint on this machine: its own, or that of a copy, which is removed when the block ends.

    Raises:
      UserError: the checkpoint is damaged or of another model: what `tf.train` raises in the block.
      OSError: its server is not available.
    """
    with contextlib.ExitStack() as stack:
        local = prefix
        if storage.is_remote(prefix):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            local = os.path.join(folder, os.path.basename(prefix))
            for file in files_of(prefix):
                storage.copy(file, os.path.join(folder, os.path.basename(file)))
        try:
            yield local
        except (tf.errors.OpError, AssertionError, ValueError, IndexError, RuntimeError) as error:
            text = " ".join(str(error).split())[:300]
            raise UserError(f"{prefix}: the checkpoint cannot be read: {text}") from error


def read(prefix: str, **objects: Any) -> None:
    """Reads all variables of these objects from a local checkpoint, which may hold more; see `readable`."""
    tf.train.Checkpoint(**objects).read(prefix).expect_partial().assert_existing_objects_matched()


def keep_for_ever(path: str, folder: str = SNAPSHOT_DIR) -> None:
    """Gives the files of a checkpoint a second name in another folder of the run, where training deletes nothing.

    Raises:
      OSError: that cannot be written.
    """
    target = storage.join(os.path.dirname(os.path.dirname(path)), folder)
    storage.make_folder(target)
    for file in files_of(path):
        name = os.path.basename(file)
        if storage.is_remote(target):
            storage.copy(file, storage.join(target, name))
            continue
        temporary = os.path.join(target, f".{name}")
        pathlib.Path(temporary).unlink(missing_ok=True)
        try:
            os.link(file, temporary)
        except OSError:  # not every file system has links
            shutil.copyfile(file, temporary)
        os.replace(temporary, os.path.join(target, name))


def best_score(model_dir: str, name: str, protocol: str) -> float | None:
    """The score of the checkpoint in `best/`; None where there is none, or one that cannot be compared.

    Args:
      model_dir: the run.
      name: of the score.
      protocol: a digest of all that scores depend on besides the checkpoint.
    Raises:
      UserError: its file cannot be read.
    """
    path = storage.join(model_dir, BEST_DIR, BEST_FILE)
    if not storage.exists(path):
        return None
    try:
        best = json.loads(storage.read_text(path))
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
    newest = os.path.basename(path)
    folder = storage.join(os.path.dirname(os.path.dirname(path)), BEST_DIR)
    best = {"checkpoint": newest, "score": name, "value": value, "protocol": protocol}
    write_atomically(storage.join(folder, BEST_FILE), json.dumps(best, indent=2) + "\n")
    for file in storage.names(folder):
        if file.startswith("ckpt-") and file.partition(".")[0] != newest:
            storage.remove(storage.join(folder, file))


def find_checkpoint(name: str) -> str | None:
    """The prefix of a checkpoint's files.

    Args:
      name: a run's folder, whose newest one is meant, RUN/best, or the prefix itself, such as RUN/snapshots/ckpt-1000.
    Returns:
      None where there is none.
    """
    prefix = re.sub(r"\.index$", "", name)
    if storage.exists(f"{prefix}.index"):
        return prefix
    return next(iter(checkpoints_in(name)), None) or latest_checkpoint(name)


def checksums(name: str) -> dict[str, str]:
    """Of the files of the checkpoint that `find_checkpoint` finds, by their names."""
    return {os.path.basename(file): checksum(file) for file in files_of(find_checkpoint(name) or name)}


def run_folder(name: str) -> str:
    """The folder of the run that `find_checkpoint` would look into."""
    if storage.exists(storage.join(name, CONFIG_FILE)):
        return name
    found = find_checkpoint(name)
    return name if found is None else os.path.dirname(os.path.dirname(found))


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
    source = run_folder(config.train.init_from)
    other = differences(config.model, load_config(source).model, "there")
    shapes = [text for name, text in other.items() if name in SHAPES]
    if shapes:
        raise ConfigError(f"--init_from={config.train.init_from}: its networks have other shapes: {', '.join(shapes)}")
    networks = {"generator": model.generator, "discriminator": model.discriminator}
    if model.ema_generator is not model.generator:
        networks["ema_generator"] = model.ema_generator
    with readable(path) as local:
        for name, network in networks.items():
            # One by one: in a run without averaging two of the names stand for the same network.
            read(local, **{name: network})
    return path


def save_generator(
    generator: Generator,
    config: Config,
    class_names: Sequence[str],
    step: int,
    folder: str | os.PathLike[str],
    fps: float = 0.0,
) -> None:
    """Writes an averaged generator alone, as a small run that whatever generates takes.

    It cannot be trained on: discriminators and optimisers are left out.

    Args:
      generator, config, step: from `load_generator`.
      class_names: from `load_class_names`.
      folder: appears only when it is whole.
      fps: from `load_fps`.
    Raises:
      UserError: the folder is there already.
    """
    if storage.exists(folder):
        raise UserError(f"{folder} is already there; name a new folder")
    if storage.is_remote(folder):
        with tempfile.TemporaryDirectory() as local:
            save_generator(generator, config, class_names, step, os.path.join(local, "run"), fps)
            storage.copy_folder(os.path.join(local, "run"), os.fspath(folder), CONFIG_FILE)
        return
    target = pathlib.Path(folder)
    # Where the run, its data and its classifier were is nobody's business.
    train = dataclasses.replace(config.train, model_dir="", init_from="", eval_every_steps=0)
    data, scores = dataclasses.replace(config.data, data_dir=""), dataclasses.replace(config.eval, cache_dir="")
    scores = dataclasses.replace(scores, classifier="", c3d_mean="")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".unfinished-", dir=target.parent)
    try:
        record_config(Config(config.model, data, train, scores), class_names, temporary, fps)
        weights = tf.train.Checkpoint(ema_generator=generator, step=tf.Variable(step, dtype=tf.int64))
        prefix = weights.write(os.path.join(temporary, CHECKPOINT_DIR, f"ckpt-{step}"))
        _name_newest(prefix)
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
    config = load_config(run_folder(name))
    if path is None:
        raise UserError(f"{name} has no checkpoint yet; train it for at least --checkpoint_every_steps steps")
    generator = Generator(config.model)
    step = tf.Variable(0, dtype=tf.int64)
    with readable(path) as local:
        read(local, ema_generator=generator, step=step)
    return generator, config, int(step)
