"""The folder of a run: config, class names, frame rate, checkpoints. A `Run` is opened once by name and passed on."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Sequence

from tganv2_tf import storage
from tganv2_tf.config import Config
from tganv2_tf.errors import UserError
from tganv2_tf.storage.files import write_atomically

CONFIG_FILE = "config.json"
CLASSES_FILE = "classes.json"
DATA_FILE = "data.json"  # facts about the data set that generation needs
CHECKPOINT_DIR = "checkpoints"
EVENTS_DIR = "events"
SNAPSHOT_DIR = "snapshots"
BEST_DIR = "best"
BEST_FILE = "best.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run and one of its checkpoints.

    Attributes:
      name: The name given by the user.
      folder: Folder of the run, a path or an address.
      checkpoint: Prefix of the checkpoint's files; None if there is no checkpoint.
    """

    name: str
    folder: str
    checkpoint: str | None

    @classmethod
    def open(cls, name: str | os.PathLike[str]) -> Run:
        """Locates a run without reading its files. The run need not exist.

        Args:
          name: Folder of a run (selects its newest checkpoint), RUN/best, or the prefix of a checkpoint, e.g.
            RUN/snapshots/ckpt-1000.
        """
        name = os.fspath(name)
        if storage.exists(storage.join(name, CONFIG_FILE)):
            return cls(name, name, next(iter(checkpoints_in(name)), None) or latest_checkpoint(name))
        prefix = re.sub(r"\.index$", "", name)
        found: str | None = prefix
        if not storage.exists(f"{prefix}.index"):
            found = next(iter(checkpoints_in(name)), None) or latest_checkpoint(name)
        folder = name
        if found is not None:
            folder = os.path.dirname(os.path.dirname(found)) or os.path.normpath(
                os.path.join(os.path.dirname(found), "..")
            )
        return cls(name, folder, found)

    @property
    def exists(self) -> bool:
        """Whether the folder contains a run."""
        return storage.exists(storage.join(self.folder, CONFIG_FILE))

    @functools.cached_property
    def config(self) -> Config:
        """The config of the run's latest training.

        Raises:
          UserError: The run does not exist, or its config cannot be read.
        """
        folder = self.folder
        path = storage.join(folder, CONFIG_FILE)
        try:
            return Config.from_json(storage.read_text(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            if not storage.exists(folder) and not storage.is_read_only(folder):
                raise UserError(f"{folder}: no such folder or checkpoint") from error
            text = f"{folder} is not a run: no {CONFIG_FILE} in it; `python -m tganv2_tf.train` creates one"
            raise UserError(text) from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of labels; empty if the model is not conditional.

        Raises:
          UserError: The run does not exist, or the file with the names is damaged.
        """
        num_classes = self.config.model.num_classes
        if not num_classes:
            return ()
        path = storage.join(self.folder, CLASSES_FILE)
        try:
            names = json.loads(storage.read_text(path))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from error
        if not isinstance(names, list) or len(names) != num_classes or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: not a list of the names of the run's {num_classes} classes")
        return tuple(names)

    @functools.cached_property
    def fps(self) -> float:
        """Frames per second of the training clips; 0 if unknown.

        Raises:
          UserError: The file with the rate is damaged.
        """
        path = storage.join(self.folder, DATA_FILE)
        if not storage.exists(path):  # the rate is unknown
            return 0.0
        try:
            return float(json.loads(storage.read_text(path))["fps"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read: {error}; delete it, or copy it again") from error

    def pinned(self) -> Run:
        """Returns this run fixed to its current checkpoint, even if training adds newer ones."""
        return dataclasses.replace(self, name=self.checkpoint or self.name)


def record_config(config: Config, class_names: Sequence[str] = (), folder: str = "", fps: float = 0.0) -> None:
    """Writes `config.json`, and if applicable `classes.json` and `data.json`, into the run's or another folder.

    Args:
      config: Configuration of the run.
      class_names: Class names of a conditional model, for `classes.json`.
      folder: Target folder; empty is the run's folder.
      fps: Frames per second of generated videos, for `data.json`; 0 is unknown.
    """
    folder = folder or config.train.model_dir
    if fps:
        write_atomically(storage.join(folder, DATA_FILE), json.dumps({"fps": fps}) + "\n")
    elif storage.exists(storage.join(folder, DATA_FILE)):  # the rate of data that the run was trained on before
        storage.remove(storage.join(folder, DATA_FILE))
    if config.model.conditional:
        write_atomically(storage.join(folder, CLASSES_FILE), json.dumps(list(class_names), indent=2) + "\n")
    write_atomically(storage.join(folder, CONFIG_FILE), config.to_json())


def checkpoints_in(folder: str) -> list[str]:
    """Returns the prefixes of the checkpoints in a folder, newest first.

    It lists files instead of reading TensorFlow's `checkpoint` file, which may be empty or outdated after a power cut.
    """
    found = [re.fullmatch(r"ckpt-(\d+)\.index", name) for name in storage.names(folder)]
    numbers = {int(match[1]) for match in found if match}
    return [storage.join(folder, f"ckpt-{number}") for number in sorted(numbers, reverse=True)]


def checkpoint_step(prefix: str) -> int:
    """Returns the step of a checkpoint, given its prefix."""
    return int(prefix.rpartition("-")[2])


def write_checkpoint_state(prefix: str) -> None:
    """Writes the `checkpoint` file, which `tf.train.latest_checkpoint` reads."""
    folder, name = os.path.split(prefix)
    write_atomically(storage.join(folder, "checkpoint"), f'model_checkpoint_path: "{name}"\n')


def latest_checkpoint(model_dir: str | os.PathLike[str]) -> str | None:
    """Returns the prefix of the newest checkpoint of a run, or None."""
    return next(iter(checkpoints_in(storage.join(model_dir, CHECKPOINT_DIR))), None)


def checkpoint_files(prefix: str) -> list[str]:
    """Returns the files of a checkpoint. The index is last: without it the checkpoint does not exist."""
    folder, name = os.path.split(prefix)
    files = [file for file in storage.names(folder) if file.startswith(f"{name}.")]
    return [storage.join(folder, file) for file in sorted(files, key=lambda file: (file.endswith(".index"), file))]
