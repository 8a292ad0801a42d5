"""The folder that a preparation writes to: whether it may, what is there already, and how that was made."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from tganv2_tf.data.manifest import MANIFEST_FILE, UNFINISHED_DIR, Manifest
from tganv2_tf.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def refuse_other_options(folder: pathlib.Path, before: dict[str, Any], now: dict[str, Any]) -> None:
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


def is_complete(folder: pathlib.Path, options: dict[str, Any]) -> bool:
    """Whether the data set is there already. Raises UserError where one with other options is."""
    if not (folder / MANIFEST_FILE).exists():
        return False
    refuse_other_options(folder, Manifest.load(folder).options, options)
    shutil.rmtree(folder / UNFINISHED_DIR, ignore_errors=True)  # of a run killed at its last step
    return True


def make_folder(folder: pathlib.Path, work: pathlib.Path) -> None:
    """Makes the folder, and `work` in it. Raises UserError where it cannot be made or holds something else."""
    try:
        if not work.is_dir() and folder.exists() and (not folder.is_dir() or any(folder.glob("[!.]*"))):
            raise UserError(f"--output_dir={folder}: holds something else; name a new or an empty folder")
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir={folder}: {error.strerror}; name a folder that you may write to") from error


@contextlib.contextmanager
def lock(work: pathlib.Path) -> Iterator[None]:
    """Keeps a second run out of the folder; the system lets go of the lock even when a run is killed."""
    with open(work / "lock", "w", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"--output_dir={work.parent}: another run is writing to it") from error
        yield


def read_json(path: pathlib.Path) -> Any:
    """What a file of an unfinished preparation says. Raises UserError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: cannot be read; delete the folder {path.parent.parent} and start again") from error
