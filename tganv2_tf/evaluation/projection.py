"""Projection: finds the latent whose video is closest to a given clip (Zhu et al., 2016, arXiv:1609.03552).

Candidate latents are sampled and rendered. The best of them are optimized together by Adam, with gradients through the
generator; after each step, coordinates are clipped to the range of the prior. The best result is returned.
Clips far from the training data have no close latent.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tganv2_tf.errors import UserError
from tganv2_tf.evaluation.c3d import C3D
from tganv2_tf.models.latents import Latent, bounds, sample_latents
from tganv2_tf.storage.files import Path
from tganv2_tf.subsampling import average_pixels
from tganv2_tf.video_io.decoding import VideoError, open_video
from tganv2_tf.video_io.geometry import centre_square, resize_square

Render = Callable[[tf.Tensor, "tf.Tensor | None"], tf.Tensor]
Loss = Callable[[tf.Tensor], tf.Tensor]


class Projection(NamedTuple):
    """Result of `project`.

    Attributes:
      z: float32 [z_dim].
      start: float32 [z_dim], the initial value of z.
      label: class of the video; None without classes.
      restart: index of the restart that found z.
      losses: float32 [steps + 1, restarts], before the first step and after each step.
    """

    z: np.ndarray
    start: np.ndarray
    label: int | None
    restart: int
    losses: np.ndarray


def read_clip(path: Path, num_frames: int, size: int, first_frame: int = 0, frame_step: int = 1) -> np.ndarray:
    """Reads frames of a video file, cropped to the centre square and resized as by data_prep's `--geometry=paper`.

    Args:
      path: the video file.
      num_frames: T.
      size: output height and width in pixels.
      first_frame: index of the first frame, from 0.
      frame_step: distance between two frames.
    Returns:
      uint8 [T, size, size, 3].
    Raises:
      UserError: the file is not a video, is damaged, or is too short.
    """
    stop = first_frame + (num_frames - 1) * frame_step + 1
    frames = []
    decoded = 0
    try:
        opened = open_video(path)
        for decoded, frame in enumerate(itertools.islice(opened.frames, stop), start=1):
            if decoded > first_frame and (decoded - 1 - first_frame) % frame_step == 0:
                frames.append(resize_square(centre_square(frame), size))
    except VideoError as error:
        raise UserError(f"{path}: {error}") from error
    if opened.damage.bad_packets:
        raise UserError(f"{path}: the clip or the video before it is damaged; convert it with ffmpeg or use another")
    if decoded < stop:
        raise UserError(f"{path}: {decoded} frames; a clip of {num_frames} frames needs the first {stop}")
    return np.stack(frames)


def pixel_loss(target: tf.Tensor, num_levels: int) -> Loss:
    """Multi-scale mean squared error: the mean over `num_levels` sizes, each half of the one before.

    The small sizes provide a gradient while objects in the two videos do not overlap yet.

    Args:
      target: float32 [T, H, W, 3] in [-1, 1].
      num_levels: number of sizes, the generator's number of levels.
    Returns:
      A function from float32 [N, T, H, W, 3] to float32 [N].
    """

    def levels(videos: tf.Tensor) -> list[tf.Tensor]:
        return [average_pixels(videos, 2**number) for number in range(num_levels)]

    wanted = levels(target[tf.newaxis])

    def loss(videos: tf.Tensor) -> tf.Tensor:
        pairs = zip(levels(videos), wanted)
        return tf.add_n([tf.reduce_mean(tf.square(a - b), [1, 2, 3, 4]) for a, b in pairs]) / num_levels

    return loss


def feature_loss(target: tf.Tensor, network: C3D) -> Loss:
    """Perceptual loss: relative squared distance of C3D features from the target's, averaged over fc6 and fc7.

    Args:
      target: float32 [16, H, W, 3] in [-1, 1].
      network: any C3D.
    Returns:
      A function from float32 [N, 16, H, W, 3] to float32 [N].
    """
    outputs = network(target[tf.newaxis])
    wanted = [outputs[name] for name in ("fc6", "fc7")]

    def loss(videos: tf.Tensor) -> tf.Tensor:
        found = network(videos)
        squares = [tf.reduce_sum(tf.square(found[name] - w), 1) for name, w in zip(("fc6", "fc7"), wanted)]
        return tf.add_n([s / tf.reduce_sum(tf.square(w)) for s, w in zip(squares, wanted)]) / 2.0

    return loss


def psnr(video: np.ndarray, target: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 arrays in dB; infinite if they are equal."""
    mean_square = np.mean(np.square(video.astype(np.float64) - target))
    return 10 * math.log10(255**2 / mean_square) if mean_square else math.inf


def best_first(losses: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Ranks candidates: the best of each class first, then the second best of each class, and so on.

    Args:
      losses: float [candidates].
      labels: int [candidates], or None for one class.
    Returns:
      int [candidates], indices in this order.
    """
    by_loss = np.argsort(losses, kind="stable")
    if labels is None:
        return by_loss
    ranks = np.empty(len(losses), int)  # among the candidates of its class
    for label in np.unique(labels):
        members = by_loss[labels[by_loss] == label]
        ranks[members] = np.arange(len(members))
    return np.lexsort([losses, ranks])


def project(
    render: Render,
    loss: Loss,
    latent: Latent,
    labels: Sequence[int] | None,
    candidates: int,
    restarts: int,
    steps: int,
    learning_rate: float,
    seed: int,
) -> Projection:
    """Searches for the latent with the lowest loss.

    Args:
      render: maps latents, float32 [N, z_dim], and labels, int32 [N] or None, to videos.
      loss: maps videos to float32 [N].
      latent: distribution of the latents.
      labels: classes to try, assigned to the candidates in turn; None for a generator without classes.
      candidates: number of sampled latents.
      restarts: number of latents that are optimized, and batch size; at most `candidates`.
      steps: Adam updates.
      learning_rate: Adam's initial learning rate; it decays to 0 along a cosine.
      seed: seed of the candidates.
    Returns:
      The best latent of all steps and restarts.
    """
    drawn = sample_latents(candidates, latent, tf.constant([seed, 0])).numpy()
    drawn_labels = None if labels is None else np.resize(np.array(labels, np.int32), candidates)

    def pick(array: np.ndarray | None, indices: np.ndarray) -> tf.Tensor | None:
        return None if array is None else tf.constant(array[indices])

    evaluate = tf.function(lambda z, labels: loss(render(z, labels)), autograph=False, reduce_retracing=True)
    batches = np.split(np.arange(candidates), range(restarts, candidates, restarts))
    interval = 0.5 if sys.stderr.isatty() else 30  # seconds; rarely if not a terminal, to keep log files small
    bar = tqdm(batches, "Candidates", unit="batch", mininterval=interval, maxinterval=interval)
    found = np.concatenate([evaluate(pick(drawn, batch), pick(drawn_labels, batch)) for batch in bar])
    chosen = best_first(found, drawn_labels)[:restarts]
    chosen_labels = pick(drawn_labels, chosen)
    z = tf.Variable(drawn[chosen], constraint=lambda z: tf.clip_by_value(z, *bounds(latent)))
    optimizer = tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(learning_rate, steps))
    optimizer.build([z])

    @tf.function(autograph=False)
    def update() -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(z)
            values = loss(render(tf.convert_to_tensor(z), chosen_labels))
            total = tf.reduce_sum(values)  # each latent receives the gradient of its own loss only
        optimizer.apply_gradients([(tape.gradient(total, z), z)])
        return values

    losses = np.empty([steps + 1, restarts], np.float32)
    lowest, best = np.full(restarts, np.inf), drawn[chosen]
    with tqdm(desc="Restarts", total=steps, unit="step", mininterval=interval, maxinterval=interval) as bar:
        for step in range(steps + 1):
            now = z.numpy()
            losses[step] = update() if step < steps else evaluate(now, chosen_labels)
            better = losses[step] < lowest
            lowest[better], best[better] = losses[step][better], now[better]
            bar.set_postfix_str(f"loss {lowest.min():.5f}", refresh=False)
            bar.update(step < steps)
    restart = int(np.argmin(lowest))
    label = None if drawn_labels is None else int(drawn_labels[chosen[restart]])
    return Projection(best[restart], drawn[chosen[restart]], label, restart, losses)
