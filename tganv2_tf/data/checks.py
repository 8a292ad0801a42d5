"""Checks that a data set fits a model, before anything is trained."""

from __future__ import annotations

import numpy as np
from absl import logging

from tganv2_tf.config import DataConfig
from tganv2_tf.data.advice import preparation, require_data_dir
from tganv2_tf.data.damage import damage_message, map_or_substitute
from tganv2_tf.data.lengths import span
from tganv2_tf.data.manifest import REMEDY, Manifest
from tganv2_tf.data.reading import RecordPartition
from tganv2_tf.data.records import parse_record
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.systems import SystemConfig


def load_manifest(model: SystemConfig, data: DataConfig) -> Manifest:
    """Reads the manifest and checks that the data set fits the model.

    Raises:
      ConfigError: `data_dir` is not set, sizes of frames or classes do not fit the model, or no video is long enough.
      UserError: There is no data set, or it is damaged and `skip_corrupt_records` is not set.
    """
    require_data_dir(model, data)
    command = preparation(model, data)
    if data.skip_corrupt_records:
        manifest = Manifest.read(data.data_dir, command)
        for file, fault in manifest.faults(data.data_dir).items():
            logging.warning("%s: %s", file, fault)
    else:
        manifest = Manifest.load(data.data_dir, command)
    if manifest.height != model.resolution or manifest.width < model.resolution:
        raise ConfigError(
            f"--resolution={model.resolution}: the frames in {data.data_dir} have {manifest.height}x{manifest.width} "
            f"pixels; valid: {manifest.height}, or prepare the videos again with --resolution={model.resolution}"
        )
    if model.conditional and len(manifest.labels) < 2:
        raise ConfigError(
            f"--conditional: the videos in {data.data_dir} have fewer than two classes; prepare them with "
            "data_prep.ucf101, or with data_prep.video_folder and one folder per class"
        )
    if model.num_classes not in (0, len(manifest.labels)):
        raise ConfigError(
            f"--num_classes={model.num_classes}: {data.data_dir} has {len(manifest.labels)} classes; "
            f"valid: {len(manifest.labels)} or 0"
        )
    _require_long_enough(manifest, RecordPartition.of(manifest, data.data_dir), model.num_frames, data)
    return manifest


def _require_long_enough(manifest: Manifest, partition: RecordPartition, num_frames: int, data: DataConfig) -> None:
    """Reads records until one is long enough for a clip. Raises UserError if a damaged record precedes it."""
    least = span(num_frames, data.frame_step)
    lengths = map_or_substitute(
        partition.read(tolerant=True),
        lambda *record: (*record, parse_record(record[2])["num_frames"]),
        lambda *record: (*record, np.int64(-1)),
    )
    longest = -1
    for path, number, record, length in lengths.as_numpy_iterator():
        longest = max(longest, length)
        if longest >= least:
            return
        if length < 0 and not data.skip_corrupt_records:
            raise UserError(f"{damage_message(path, number, record, manifest.height, manifest.width)}; {REMEDY}")
    if longest < 0:
        raise UserError(f"{data.data_dir}: no record can be read; {REMEDY}")
    raise ConfigError(
        f"--num_frames={num_frames} with --frame_step={data.frame_step}: no video in {data.data_dir} has the "
        f"{least} frames that a clip spans; the longest has {longest}"
    )
