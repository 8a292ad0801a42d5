"""The folder that a preparation writes to: whether it may, what is there already, and how that was made."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from tganv2_tf import storage
from tganv2_tf.data.manifest import MANIFEST_FILE, UNFINISHED_DIR, Manifest
from tganv2_tf.errors import UserError
from tganv2_tf.files import locked


def refuse_other_options(folder: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises UserError, naming what differs, where a folder was made with options `before` that are others `now`."""
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
    """The manifest of the data set if it is there already. Raises UserError if one with other options is."""
    if not storage.exists(storage.join(folder, MANIFEST_FILE)):
        return None
    manifest = Manifest.load(folder)
    refuse_other_options(folder, manifest.options, options)
    remove_unfinished(storage.join(folder, UNFINISHED_DIR))  # of a run killed at its last step
    return manifest


def remove_unfinished(work: str) -> None:
    """Removes what a finished preparation does not need any more, if it can."""
    with contextlib.suppress(OSError):
        storage.remove_folder(work)


def make_folder(folder: str, work: str) -> None:
    """Makes the folder, and `work` in it. Raises UserError where it cannot be made or holds something else."""
    try:
        others = [name for name in storage.names(folder) if not name.startswith(".")]
        is_file = storage.exists(folder) and not storage.is_folder(folder)
        if not storage.is_folder(work) and (is_file or others):
            raise UserError(f"--output_dir={folder}: holds something else; name a new or an empty folder")
        storage.make_folder(work)
    except OSError as error:
        raise UserError(f"--output_dir={folder}: {error.strerror}; name a folder that you may write to") from error


def lock(work: str) -> contextlib.AbstractContextManager[None]:
    """Keeps a second run out of the folder whose `work` it is; see `files.locked`."""
    return locked(storage.join(work, "lock"), f"--output_dir={os.path.dirname(work)}")


def read_json(path: str, kinds: dict[str, type]) -> dict[str, Any] | None:
    """What a file of an unfinished preparation says; None where it is missing or damaged.

    Args:
      path: of the file.
      kinds: of the values that must be there.
    """
    try:
        saved = json.loads(storage.read_text(path))
    except (FileNotFoundError, ValueError):
        return None
    sound = isinstance(saved, dict) and all(isinstance(saved.get(name), kind) for name, kind in kinds.items())
    return saved if sound else None
