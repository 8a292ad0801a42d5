"""The folder of a run: config, class names, frame rate, checkpoints. A `Run` is opened once, by name, and handed on."""

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
from tganv2_tf.files import write_atomically

CONFIG_FILE = "config.json"
CLASSES_FILE = "classes.json"
DATA_FILE = "data.json"  # what a run keeps of its data set
CHECKPOINT_DIR = "checkpoints"
EVENTS_DIR = "events"
SNAPSHOT_DIR = "snapshots"
BEST_DIR = "best"
BEST_FILE = "best.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, and the checkpoint of it that is meant.

    Attributes:
      name: As the user named it.
      folder: Of the run, a path or an address.
      checkpoint: Prefix of the checkpoint's files; None if there is no checkpoint.
    """

    name: str
    folder: str
    checkpoint: str | None

    @classmethod
    def open(cls, name: str | os.PathLike[str]) -> Run:
        """Finds a run. Nothing is read yet, so that it need not exist.

        Args:
          name: The folder of a run, for its newest checkpoint; RUN/best; or a checkpoint's prefix, such as
            RUN/snapshots/ckpt-1000.
        """
        name = os.fspath(name)
        if storage.exists(storage.join(name, CONFIG_FILE)):
            return cls(name, name, next(iter(checkpoints_in(name)), None) or latest_checkpoint(name))
        prefix = re.sub(r"\.index$", "", name)
        found: str | None = prefix
        if not storage.exists(f"{prefix}.index"):
            found = next(iter(checkpoints_in(name)), None) or latest_checkpoint(name)
        return cls(name, name if found is None else os.path.dirname(os.path.dirname(found)), found)

    @property
    def exists(self) -> bool:
        """Whether the folder is that of a run."""
        return storage.exists(storage.join(self.folder, CONFIG_FILE))

    @functools.cached_property
    def config(self) -> Config:
        """The config with which the run was last trained.

        Raises:
          UserError: There is no such run, or its config cannot be read.
        """
        folder = self.folder
        path = storage.join(folder, CONFIG_FILE)
        try:
            return Config.from_json(storage.read_text(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            if not storage.exists(folder) and not storage.is_read_only(folder):
                raise UserError(f"{folder}: no such folder, and no checkpoint") from error
            text = f"{folder} is not a run: no {CONFIG_FILE} in it; `python -m tganv2_tf.train` makes one"
            raise UserError(text) from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of their labels; empty if the model is not conditional.

        Raises:
          UserError: There is no such run, or the file with the names is damaged.
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
            raise UserError(f"{path}: not a list of the {num_classes} names of the run's classes")
        return tuple(names)

    @functools.cached_property
    def fps(self) -> float:
        """Frames per second of the clips that the run was trained on; 0 if unknown.

        Raises:
          UserError: The file with the rate is damaged.
        """
        path = storage.join(self.folder, DATA_FILE)
        if not storage.exists(path):  # a run of an older version
            return 0.0
        try:
            return float(json.loads(storage.read_text(path))["fps"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read: {error}; delete it, or copy it again") from error

    def pinned(self) -> Run:
        """The same, named by its checkpoint: if the run is trained on, the one that is the newest now."""
        return dataclasses.replace(self, name=self.checkpoint or self.name)


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


def checkpoints_in(folder: str) -> list[str]:
    """Prefixes of the checkpoints in a folder, the newest first.

    What is there counts, and not TensorFlow's `checkpoint` file, which a power cut can leave empty or behind.
    """
    found = [re.fullmatch(r"ckpt-(\d+)\.index", name) for name in storage.names(folder)]
    numbers = {int(match[1]) for match in found if match}
    return [storage.join(folder, f"ckpt-{number}") for number in sorted(numbers, reverse=True)]


def step_of(prefix: str) -> int:
    """The step of a checkpoint, by its prefix."""
    return int(prefix.rpartition("-")[2])


def name_newest(prefix: str) -> None:
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
