"""Checkpoints that training keeps permanently: snapshots, and the best one by a score."""

from __future__ import annotations

import json
import os
import pathlib
import shutil

from tganv2_tf import storage
from tganv2_tf.errors import UserError
from tganv2_tf.runs import BEST_DIR, BEST_FILE, SNAPSHOT_DIR, checkpoint_files
from tganv2_tf.storage.files import write_atomically


def keep_snapshot(path: str, folder: str = SNAPSHOT_DIR) -> None:
    """Links or copies a checkpoint into another folder of the run, from which training does not delete it.

    Raises:
      OSError: The files cannot be written.
    """
    target = storage.join(os.path.dirname(os.path.dirname(path)), folder)
    storage.make_folder(target)
    for file in checkpoint_files(path):
        name = os.path.basename(file)
        if storage.is_remote(target):
            storage.copy(file, storage.join(target, name))
            continue
        temporary = os.path.join(target, f".{name}")
        pathlib.Path(temporary).unlink(missing_ok=True)
        try:
            os.link(file, temporary)
        except OSError:  # not every file system supports links
            shutil.copyfile(file, temporary)
        os.replace(temporary, os.path.join(target, name))


def best_score(model_dir: str, name: str, protocol: str) -> float | None:
    """Returns the score of the checkpoint in `best/`; None if there is none or it is not comparable.

    Args:
      model_dir: Folder of the run.
      name: Name of the score.
      protocol: Digest of all that scores depend on, except the checkpoint.
    Raises:
      UserError: The file with the score cannot be read.
    """
    path = storage.join(model_dir, BEST_DIR, BEST_FILE)
    if not storage.exists(path):
        return None
    try:
        best = json.loads(storage.read_text(path))
        return float(best["value"]) if (best["score"], best["protocol"]) == (name, protocol) else None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read: {error}; delete it; the next evaluation rewrites it") from error


def keep_best(path: str, name: str, value: float, protocol: str) -> None:
    """Copies a checkpoint to `best/`, replacing the previous one.

    Raises:
      OSError: The files cannot be written.
    """
    keep_snapshot(path, BEST_DIR)
    newest = os.path.basename(path)
    folder = storage.join(os.path.dirname(os.path.dirname(path)), BEST_DIR)
    best = {"checkpoint": newest, "score": name, "value": value, "protocol": protocol}
    write_atomically(storage.join(folder, BEST_FILE), json.dumps(best, indent=2) + "\n")
    for file in storage.names(folder):
        if file.startswith("ckpt-") and file.partition(".")[0] != newest:
            storage.remove(storage.join(folder, file))
