"""Writes a run's row in TensorBoard's HParams table, which compares the runs of one `--logdir`."""

from __future__ import annotations

import dataclasses
import os
import tempfile

import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.hparams import api_pb2, summary

from tganv2_tf import storage
from tganv2_tf.config import Config
from tganv2_tf.errors import UserError
from tganv2_tf.runs import EVENTS_DIR

HPARAMS_SUFFIX = ".hparams"
# Settings that affect neither the networks nor their training.
NOT_COMPARED = {
    "data_prep",
    "model_dir",
    "log_every_steps",
    "preview_every_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "keep_checkpoint_every_steps",
    "eval_every_steps",
    "best_score",
    "num_previews",
    "profile_steps",
    "deterministic",
    "max_restarts",
}


def hparams(config: Config) -> dict[str, bool | int | float | str]:
    """Returns the settings that distinguish runs, keyed by flag name; tuples are formatted as on the command line."""
    settings: dict[str, bool | int | float | str] = {"system": config.system}
    for part in (config.model, config.data, config.train):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name not in NOT_COMPARED and field.metadata["system"] in ("", config.system):
                settings[field.name] = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return settings


def record_hparams(config: Config) -> None:
    """Writes the run's row with the settings of `config`; in a resumed run it replaces the earlier row.

    TensorBoard uses the first row in a run's events, so the row has a separate file, which is rewritten like
    `config.json`. Must be called before other events are written: TensorBoard may read files in the order of their
    names, which start with the time, and does not return to earlier ones.

    No table columns are defined. TensorBoard then shows all settings, those that differ between runs first, and the
    latest values of all scalars, `eval/` first. It merges rows of equal names and truncates long names, so a row is
    named by the run's folder followed by its parent path.
    """
    parent, name = os.path.split(config.train.model_dir.rstrip("/"))
    folder = storage.join(config.train.model_dir, EVENTS_DIR)
    earlier = [file for file in storage.names(folder) if file.endswith(HPARAMS_SUFFIX)]
    with tempfile.TemporaryDirectory(prefix="tganv2_tf-events-") as staging:
        writer = tf.summary.create_file_writer(staging, filename_suffix=HPARAMS_SUFFIX)
        with writer.as_default():
            hparams_api.hparams(hparams(config), trial_id=f"{name} in {parent or '.'}")
        writer.close()
        (written,) = os.listdir(staging)
        # Before the suffix is the number of this process's writers. With 0, the name sorts before those that follow.
        prefix = written.removesuffix(HPARAMS_SUFFIX).rpartition(".")[0]
        target = f"{prefix}.0{HPARAMS_SUFFIX}"
        try:
            storage.copy(os.path.join(staging, written), storage.join(folder, target))
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    for file in earlier:
        if file != target:
            storage.remove(storage.join(folder, file))


def record_success() -> None:
    """Marks the run as finished in its row, using the default writer."""
    ended = summary.session_end_pb(api_pb2.STATUS_SUCCESS)
    tf.summary.experimental.write_raw_pb(ended.SerializeToString(), step=0)
