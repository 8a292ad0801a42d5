"""Writes one shard in a worker process. The file appears under its final name only when complete."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator

import cv2

from data_prep.video import encode_frame
from tganv2_tf.data.manifest import Damaged, Shard, Skipped, checksum
from tganv2_tf.data.records import NO_LABEL, encode_record, segment_id, write_record
from tganv2_tf.errors import UserError, VideoError
from tganv2_tf.storage.files import sync_folder
from tganv2_tf.video_io.video_frames import VideoFrames

READ_ERRORS = (VideoError, OSError, MemoryError, cv2.error)
REMEDY = "fix this and run the same command again; finished shards are kept"


@dataclasses.dataclass(frozen=True)
class Video:
    """A video to prepare.

    Attributes:
      id: Unique id in the data set.
      path: Path of the file.
      label: Class number from 0, or `NO_LABEL`.
      label_name: Class name, or an empty string.
      mask: Path of the video that masks its face, or an empty string.
    """

    id: str
    path: str
    label: int = NO_LABEL
    label_name: str = ""
    mask: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """All files that its frames depend on."""
        return (self.path, self.mask) if self.mask else (self.path,)


Reader = Callable[[Video], VideoFrames]


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Everything that a worker needs to write one shard.

    Attributes:
      index: Number of the shard, from 0.
      file: Final path.
      temporary: Path while it is being written, on the same file system.
      videos: Videos in their order in the shard.
      reader: Reads the frames of a video, all of one size. Must be importable, so that it can be sent to a worker.
      encoding: `jpeg` or `png`.
      jpeg_quality: 1 to 100.
      min_frames: Shorter videos are skipped.
      max_record_frames: Longer videos are split into segments.
      lost: Videos that crashed a worker or timed out, and are skipped.
    """

    index: int
    file: str
    temporary: str
    videos: tuple[Video, ...]
    reader: Reader
    encoding: str
    jpeg_quality: int
    min_frames: int
    max_record_frames: int
    lost: tuple[Skipped, ...] = ()


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """A finished shard with a report on its videos.

    Attributes:
      shard: The file.
      skipped: Videos that are not in the shard.
      damaged: Videos in the shard with missing or faulty frames.
      frame_rates: Number of videos per frame rate (frames per second, as text; 0 if unknown).
      longest_records: Number of videos per length of their longest record (frames, as text).
    """

    shard: Shard
    skipped: tuple[Skipped, ...] = ()
    damaged: tuple[Damaged, ...] = ()
    frame_rates: dict[str, int] = dataclasses.field(default_factory=dict)
    longest_records: dict[str, int] = dataclasses.field(default_factory=dict)


class _SpoiledShard(Exception):
    """Raised when a video fails after some of its segments were written to the shard."""

    def __init__(self, skipped: Skipped) -> None:
        super().__init__(skipped.reason)
        self.skipped = skipped


def write_shard(task: ShardTask, announce: Callable[[str | None], None]) -> ShardReport:
    """Writes one shard; the same task gives the same bytes.

    Args:
      task: The shard to write.
      announce: Called with the id of a video at its start and after each segment, and with None after the last video.
    Raises:
      UserError: The shard cannot be written. No file is left behind.
    """
    cv2.setNumThreads(1)  # the workers already share the processors
    lost = list(task.lost)
    try:
        while True:
            try:
                report = _write_temporary(task, lost, announce)
                break
            except _SpoiledShard as spoiled:
                lost.append(spoiled.skipped)
        os.replace(task.temporary, task.file)
        sync_folder(os.path.dirname(task.file))
    except OSError as error:
        raise UserError(f"{task.file}: cannot be written: {error.strerror or error}; {REMEDY}") from error
    finally:
        pathlib.Path(task.temporary).unlink(missing_ok=True)
    return report


def _write_temporary(task: ShardTask, lost: list[Skipped], announce: Callable[[str | None], None]) -> ShardReport:
    skipped, without = list(lost), {skip.video for skip in lost}
    damaged: list[Damaged] = []
    frame_rates: collections.Counter[str] = collections.Counter()
    longest_records: collections.Counter[str] = collections.Counter()
    num_videos = num_records = num_frames = 0
    with open(task.temporary, "wb") as file:
        for video in task.videos:
            if video.id in without:
                continue
            announce(video.id)
            written = longest = 0
            to_write = _encoded_records(video, task, damaged, frame_rates)
            while True:
                try:
                    record = next(to_write, None)
                except READ_ERRORS as error:
                    skip = Skipped(video.id, str(error) or type(error).__name__)
                    if written:
                        raise _SpoiledShard(skip) from error
                    skipped.append(skip)
                    break
                if record is None:
                    num_videos += 1
                    longest_records[str(longest)] += 1
                    break
                frames, serialized = record
                write_record(file, serialized)
                written += 1
                num_records += 1
                num_frames += frames
                longest = max(longest, frames)
                announce(video.id)
        announce(None)
        file.flush()
        os.fsync(file.fileno())
    size, digest = os.path.getsize(task.temporary), checksum(task.temporary)
    shard = Shard(os.path.basename(task.file), size, digest, num_videos, num_records, num_frames)
    counts = (dict(sorted(each.items())) for each in (frame_rates, longest_records))
    return ShardReport(shard, tuple(skipped), tuple(damaged), *counts)


def _encoded_records(
    video: Video, task: ShardTask, damaged: list[Damaged], frame_rates: collections.Counter[str]
) -> Iterator[tuple[int, bytes]]:
    """Yields the number of frames and the serialized record of each segment of a video.

    The rate and the damage of the video are recorded at its end.

    Raises:
      One of READ_ERRORS.
    """
    opened = task.reader(video)
    size: tuple[int, ...] = ()

    def encoded() -> Iterator[bytes]:
        nonlocal size
        for frame in opened.frames:
            size = frame.shape
            yield encode_frame(frame, task.encoding, task.jpeg_quality)

    for number, segment in enumerate(segments(encoded(), task.min_frames, task.max_record_frames), start=1):
        yield (
            len(segment.frames),
            encode_record(
                segment.frames,
                video_id=video.id if segment.whole else segment_id(video.id, number),
                label=video.label,
                label_name=video.label_name,
                height=size[0],
                width=size[1],
                fps=opened.fps,
            ),
        )
    frame_rates[f"{opened.fps:.5g}"] += 1
    damage = opened.damage
    if damage.reason:
        damaged.append(Damaged(video.id, damage.header_frames, damage.num_frames, damage.reason))


@dataclasses.dataclass(frozen=True)
class Segment:
    """Consecutive frames of a video; `whole` if they are the complete video."""

    frames: list[bytes]
    whole: bool


def segments(frames: Iterable[bytes], min_frames: int, max_frames: int) -> Iterator[Segment]:
    """Splits a stream of frames such that every window of `min_frames` frames lies within one segment.

    Neighbours share `min_frames - 1` frames, so each has at least `min_frames`. At most two are in memory.

    Args:
      frames: Frames of one video.
      min_frames: Minimum length of a segment; at least 1.
      max_frames: Maximum length of a segment; at least `min_frames`.
    Raises:
      VideoError: The video has fewer than `min_frames` frames.
    """
    overlap = min_frames - 1
    current: list[bytes] = []
    whole = True
    for frame in frames:
        if len(current) == max_frames:
            whole = False
            yield Segment(current, whole)
            current = current[max_frames - overlap :]
        current.append(frame)
    if len(current) < min_frames:
        raise VideoError(f"it has {len(current)} frames, fewer than --min_frames={min_frames}")
    yield Segment(current, whole)
