"""A run's row in TensorBoard's HParams table, where the runs of one `--logdir` are compared."""

from __future__ import annotations

import dataclasses
import os

import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.hparams import api_pb2, summary

from tganv2_tf import storage
from tganv2_tf.config import Config
from tganv2_tf.events import EventWriter
from tganv2_tf.runs import EVENTS_DIR

HPARAMS_SUFFIX = ".hparams"
# What changes neither the networks nor their training.
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
    """The settings that tell one run from another: flags by name, written as on the command line."""
    settings = {}
    for part in (config.model, config.data, config.train):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name not in NOT_COMPARED:
                settings[field.name] = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return settings


def record_hparams(config: Config) -> None:
    """Writes the run's row with the settings of `config`, in the place of the row that a run taken up again has.

    TensorBoard believes the first row that it finds in a run's events, so this one has a file of its own, which is
    written anew, as `config.json` is. To be called before the run's other events are begun: TensorBoard may read files
    in the order of their names, which begin with the time, and never go back to an earlier one.

    No columns are laid down for the table: TensorBoard then offers all settings, those first in which the runs differ,
    and the last values of all scalars, those of `eval/` first, whoever writes them. It merges rows of one name and cuts
    off the end of a long one: a row is named after the run's whole path, its own folder first.
    """
    parent, name = os.path.split(config.train.model_dir.rstrip("/"))
    folder = storage.join(config.train.model_dir, EVENTS_DIR)
    earlier = [file for file in storage.names(folder) if file.endswith(HPARAMS_SUFFIX)]
    with EventWriter(config.train.model_dir, HPARAMS_SUFFIX) as writer, writer.as_default():
        hparams_api.hparams(hparams(config), trial_id=f"{name} in {parent or '.'}")
    for file in earlier:
        storage.remove(storage.join(folder, file))


def record_success() -> None:
    """Says in the run's row, through the default writer, that the run has come to its end."""
    ended = summary.session_end_pb(api_pb2.STATUS_SUCCESS)
    tf.summary.experimental.write_raw_pb(ended.SerializeToString(), step=0)
