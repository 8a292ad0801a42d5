"""Checks and creates the output folder of a preparation, and reads the state of an earlier run in it."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from tganv2_tf import storage
from tganv2_tf.data.manifest import MANIFEST_FILE, UNFINISHED_DIR, Manifest
from tganv2_tf.errors import UserError
from tganv2_tf.storage.files import locked


def refuse_other_options(folder: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises UserError, naming the differences, if the folder was made with other options."""
    differing = [
        f"{'' if name in ('data_set', 'videos') else '--'}{name}={before.get(name)} (now {now.get(name)})"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if differing:
        raise UserError(
            f"--output_dir={folder}: was made with {', '.join(differing)}; choose another folder, or delete this one"
        )


def finished(folder: str, options: dict[str, Any]) -> Manifest | None:
    """Returns the manifest of a finished data set, or None. Raises UserError if it was made with other options."""
    if not storage.exists(storage.join(folder, MANIFEST_FILE)):
        return None
    manifest = Manifest.load(folder)
    refuse_other_options(folder, manifest.options, options)
    remove_unfinished(storage.join(folder, UNFINISHED_DIR))  # left by a run that was killed at its last step
    return manifest


def remove_unfinished(work: str) -> None:
    """Removes the files that a finished preparation no longer needs, if possible."""
    with contextlib.suppress(OSError):
        storage.remove_folder(work)


def make_folder(folder: str, work: str) -> None:
    """Creates the folder and `work` in it. Raises UserError if it cannot be created or contains something else."""
    try:
        others = [name for name in storage.names(folder) if not name.startswith(".")]
        is_file = storage.exists(folder) and not storage.is_folder(folder)
        if not storage.is_folder(work) and (is_file or others):
            raise UserError(f"--output_dir={folder}: already exists with other contents; choose a new or empty folder")
        storage.make_folder(work)
    except OSError as error:
        raise UserError(f"--output_dir={folder}: {error.strerror}; choose a writable folder") from error


def lock(work: str) -> contextlib.AbstractContextManager[None]:
    """Prevents a second run in the folder that contains `work`; see `files.locked`."""
    return locked(storage.join(work, "lock"), f"--output_dir={os.path.dirname(work)}")


def read_json(path: str, kinds: dict[str, type]) -> dict[str, Any] | None:
    """Reads a JSON file of an unfinished preparation; returns None if it is missing or damaged.

    Args:
      path: Path of the file.
      kinds: Required keys and the types of their values.
    """
    try:
        saved = json.loads(storage.read_text(path))
    except (FileNotFoundError, ValueError):
        return None
    sound = isinstance(saved, dict) and all(isinstance(saved.get(name), kind) for name, kind in kinds.items())
    return saved if sound else None
