"""Assigns videos to shards. The plan is made before the work starts and is the same on every machine."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Sequence

import cv2

from data_prep.options import ShardingOptions
from data_prep.report import in_one_line
from data_prep.shard_writer import READ_ERRORS, Reader, Video
from data_prep.video import encode_frame
from data_prep.workers import WorkerPool, run_supervised
from tganv2_tf.data.manifest import Skipped
from tganv2_tf.errors import UserError
from tganv2_tf.video_io.decoding import claimed_num_frames

MIB = 2**20
PROBED_VIDEOS, PROBED_FRAMES = 16, 8
# Small data sets, too, must keep several workers busy, and later the readers of several replicas.
MIN_SHARDS = 8
MIN_VIDEOS_PER_SHARD = 16


def shuffled(videos: Sequence[Video], seed: int) -> list[Video]:
    """Returns the videos in an order that depends only on their ids and the seed, on every machine.

    UCF101's lists are sorted by class; without shuffling a shard would contain about three classes.
    """
    return sorted(videos, key=lambda video: hashlib.sha256(f"{seed} {video.id}".encode()).digest())


def num_shards(num_videos: int, bytes_per_video: float, shard_mib: int) -> int:
    """Returns the number of shards: by size, but enough for several workers, and with at least one video per shard."""
    by_size = round(num_videos * bytes_per_video / (shard_mib * MIB))
    return max(1, min(num_videos, max(by_size, min(MIN_SHARDS, num_videos // MIN_VIDEOS_PER_SHARD))))


@dataclasses.dataclass(frozen=True)
class ProbeTask:
    """A sample of the videos, used to estimate the size of the shards."""

    videos: tuple[Video, ...]
    reader: Reader
    encoding: str
    jpeg_quality: int


@dataclasses.dataclass(frozen=True)
class Probe:
    """Result of reading the first frames of a sample of videos.

    Attributes:
      bytes_per_video: Estimated encoded size, from the frame counts in the headers; a video that failed counts 0.
      failed: Videos that cannot be read.
    """

    bytes_per_video: float
    failed: tuple[Skipped, ...]


def probe(task: ProbeTask, announce: Callable[[str | None], None]) -> Probe:
    """Reads the headers and the first frames of the videos; runs in a worker process."""
    cv2.setNumThreads(1)
    total, failed = 0.0, []
    for video in task.videos:
        announce(video.id)
        try:
            frames = itertools.islice(task.reader(video).frames, PROBED_FRAMES)
            sizes = [len(encode_frame(frame, task.encoding, task.jpeg_quality)) for frame in frames]
        except READ_ERRORS as error:
            failed.append(Skipped(video.id, str(error) or type(error).__name__))
            continue
        with contextlib.suppress(*READ_ERRORS):
            total += claimed_num_frames(video.path) * sum(sizes) / max(1, len(sizes))
    announce(None)
    return Probe(total / max(1, len(task.videos)), tuple(failed))


def bytes_per_video(videos: Sequence[Video], reader: Reader, options: ShardingOptions, pool: WorkerPool) -> float:
    """Estimates the mean size of a video in the shards, from the first videos of the shuffled list.

    Raises:
      UserError: Among these videos alone, more are unusable than may be skipped.
    """
    sample = tuple(videos[:PROBED_VIDEOS])
    answers: list[Probe] = []
    # Runs in a worker, because a video may crash or hang its decoder.
    run_supervised(
        probe,
        [ProbeTask(sample, reader, options.encoding, options.jpeg_quality)],
        num_workers=1,
        item_timeout=options.video_timeout,
        on_done=lambda task, answer: answers.append(answer),
        on_lost=lambda task, video_id, reason: dataclasses.replace(
            task, videos=tuple(video for video in task.videos if video.id != video_id)
        ),
        pool=pool,
    )
    failed = answers[0].failed
    if len(failed) > options.max_failures:
        raise UserError(
            f"{len(failed)} of the first {len(sample)} videos cannot be used, more than --max_failures="
            f"{options.max_failures}, e.g. {in_one_line(failed[0].video)}: {in_one_line(failed[0].reason)}"
        )
    return answers[0].bytes_per_video
