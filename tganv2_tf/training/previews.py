"""Previews during training: samples of fixed latents, and real clips, in TensorBoard's image tab."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorboard.plugins.image import metadata as image_metadata

from tganv2_tf.config import Config
from tganv2_tf.data.clips import normalize
from tganv2_tf.data.labelled import labelled_clips
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import UserError
from tganv2_tf.events import EventWriter
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.training.callbacks import StepCallback
from tganv2_tf.training.distribution import make_all_gather, num_workers, worker_number
from tganv2_tf.video_io import videos

PREVIEW_FPS = 8.0
PREVIEWS_PER_CLASS = 4  # if there are fewer previews than classes
PREVIEWS_SEED = 1  # second word of the stateless seed; training folds the step into its own


class Previews(StepCallback):
    """Writes animated samples of the averaged generator, from fixed latents, at every level, for TensorBoard.

    A conditional model has one row per class, with the same latents in each row. With fewer previews than classes, only
    some classes are shown, evenly spaced. The first previews of a run also show as many real clips.
    """

    def __init__(self, writer: EventWriter, config: Config, manifest: Manifest | None = None) -> None:
        """
        Args:
          writer: Event writer of the run.
          config: Configuration of the run.
          manifest: Manifest of its data set; None shows no real clips.
        """
        super().__init__()
        self.writer, self.config, self.manifest = writer, config, manifest
        total, num_classes = config.train.num_previews, config.model.num_classes
        rows = (num_classes or 1) if total >= num_classes else max(1, total // PREVIEWS_PER_CLASS)
        self.columns = total // rows if num_classes else None
        latents = total // rows
        z = sample_latents(latents, config.model.latent, tf.constant([config.train.seed, PREVIEWS_SEED]))
        self.z = tf.tile(z, [rows, 1])
        self.labels = None
        if num_classes:
            self.labels = np.repeat(np.linspace(0, num_classes - 1, rows).round(), latents).astype(np.int32)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        self.sample = tf.function(
            lambda z, level, labels: self.model.ema_generator(z, level=level, labels=labels), autograph=False
        )
        self.gather = make_all_gather(self.model.distribute_strategy)

    def on_step_end(self, step: int, logs: dict[str, Any]) -> None:
        train = self.config.train
        if not train.is_due(step, train.preview_every_steps):
            return
        with self.writer.as_default(step):
            if self.manifest is not None and step == min(train.preview_every_steps, train.train_steps):
                show_real_clips(self.manifest, self.config, len(self.z), self.columns)
            for number in range(1, self.config.model.pyramid.num_levels + 1):
                grid = videos.grid(self._videos(number), self.columns)
                write_animation(f"samples/level_{number}", grid)
        self.writer.flush()

    def _videos(self, level: int) -> np.ndarray:
        """Generates all samples, uint8 [N, T, H, W, 3]. Workers generate consecutive samples in parallel."""
        strategy, last = self.model.distribute_strategy, len(self.z) - 1
        own, workers = worker_number(strategy), num_workers(strategy)
        # One sample at a time: all frames of all samples may need more memory than a training step.
        shown = [
            video
            for first in range(0, last + 1, workers)
            for video in self.gather(self._video(min(first + own, last), level))
        ]
        return videos.to_uint8(np.concatenate(shown[: last + 1]))

    def _video(self, index: int, level: int) -> np.ndarray:
        labels = None if self.labels is None else tf.constant(self.labels[index : index + 1])
        return self.sample(self.z[index : index + 1], level, labels).numpy()


def write_animation(tag: str, video: np.ndarray) -> None:
    """Writes a video, uint8 [T, H, W, 3], as an animated GIF for TensorBoard, with the default writer and step.

    `tf.summary.image` writes only PNG files, but the plugin displays any image format.
    """
    height, width = video.shape[1:3]
    content = tf.constant([str(width).encode(), str(height).encode(), videos.gif_bytes(video, PREVIEW_FPS)])
    metadata = image_metadata.create_summary_metadata(display_name=tag, description="")
    tf.summary.write(tag, content, metadata=metadata)


def show_real_clips(manifest: Manifest, config: Config, count: int, columns: int | None = None) -> None:
    """Writes `samples/real` with the default writer and step: clips cropped and mirrored as in training.

    They have all frames at full resolution. They are read by a separate pipeline with its own seeds, which does not
    affect the order of the training data or random numbers of training. Errors are logged as a warning.

    Args:
      manifest: Manifest of the run's data set.
      config: Configuration of the run.
      count: Number of clips.
      columns: Columns of the grid, as in `videos.grid`.
    """
    data = dataclasses.replace(config.data, windows_per_record=1, shuffle_buffer=1)
    # Only as many shards as needed, because remote shards are copied to this machine.
    enough = np.searchsorted(np.cumsum([shard.num_records for shard in manifest.shards]), count) + 1
    few = dataclasses.replace(manifest, shards=manifest.shards[:enough])
    try:
        clips = labelled_clips(few, data, config.model.num_frames, config.model.resolution, config.train.seed, True)
        shown = np.stack([clip for clip, _ in clips.take(count).as_numpy_iterator()])
    except (UserError, OSError, tf.errors.OpError) as error:
        logging.warning("No real clips are shown beside the previews: %s", str(error).splitlines()[0])
        return
    seen = normalize(tf.constant(shown), config.data.normalization).numpy()
    write_animation("samples/real", videos.grid(videos.to_uint8(seen), columns))
