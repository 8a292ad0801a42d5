"""One shard: videos -> records -> a file that appears under its name only when whole. Runs in a worker process."""

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
from tganv2_tf.files import sync_folder
from tganv2_tf.video_frames import VideoFrames

READ_ERRORS = (VideoError, OSError, MemoryError, cv2.error)
WHAT_TO_DO = "mend this and run the same command again, finished shards are kept"


@dataclasses.dataclass(frozen=True)
class Video:
    """A video to prepare.

    Attributes:
      id: unique in the data set.
      path: of its file.
      label: number of its class from 0, or `NO_LABEL`.
      label_name: name of its class, or nothing.
      mask: path of the video that shows where its face is, or nothing.
    """

    id: str
    path: str
    label: int = NO_LABEL
    label_name: str = ""
    mask: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """All that its frames are made of."""
        return (self.path, self.mask) if self.mask else (self.path,)


Reader = Callable[[Video], VideoFrames]


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """All that a worker must know to write one shard.

    Attributes:
      index: number of the shard, from 0.
      file: its final path.
      temporary: its path while it is being written, on the same file system.
      videos: in their order in the shard.
      reader: gives the frames of a video, all of one size; importable, so that it can be sent to a worker.
      encoding: `jpeg` or `png`.
      jpeg_quality: 1 to 100.
      min_frames: shorter videos are skipped.
      max_record_frames: longer videos become segments.
      lost: videos that crashed a worker or took too long, and are left out.
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
    """A finished shard, and what is to be said of its videos.

    Attributes:
      shard: the file.
      skipped: videos that are not in it.
      damaged: videos that are in it with fewer frames than they should have, or with faulty ones.
      frame_rates: number of videos by their rate in frames per second, as text; 0 if unknown.
      longest_records: number of videos by the frames of their longest record, as text.
    """

    shard: Shard
    skipped: tuple[Skipped, ...] = ()
    damaged: tuple[Damaged, ...] = ()
    frame_rates: dict[str, int] = dataclasses.field(default_factory=dict)
    longest_records: dict[str, int] = dataclasses.field(default_factory=dict)


class _SpoiledShard(Exception):
    """A video failed when segments of it were in the shard already."""

    def __init__(self, skipped: Skipped) -> None:
        super().__init__(skipped.reason)
        self.skipped = skipped


def write_shard(task: ShardTask, announce: Callable[[str | None], None]) -> ShardReport:
    """Writes one shard; the same task gives the same bytes.

    Args:
      task: which one.
      announce: called with the id of a video when it begins and with each of its segments, with None after the last.
    Raises:
      UserError: the shard cannot be written; nothing is left of it.
    """
    cv2.setNumThreads(1)  # the workers share the processors already
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
        raise UserError(f"{task.file}: cannot be written: {error.strerror or error}; {WHAT_TO_DO}") from error
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
    """Number of frames and serialized record of each segment of a video, whose rate and damage are noted at its end.

    Raises:
      one of READ_ERRORS.
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
    """Consecutive frames of a video; `whole` where they are all of it."""

    frames: list[bytes]
    whole: bool


def segments(frames: Iterable[bytes], min_frames: int, max_frames: int) -> Iterator[Segment]:
    """Cuts a stream of frames so that every window of `min_frames` frames lies whole in one segment.

    Neighbours share `min_frames - 1` frames, so each has at least `min_frames`. Two of them at most are in memory.

    Args:
      frames: one video.
      min_frames: at least 1.
      max_frames: of a segment; at least `min_frames`.
    Raises:
      VideoError: fewer than `min_frames` frames in all.
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
