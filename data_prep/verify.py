"""Checks the shards of a data set against its manifest: sizes, checksums, every record, and some decoded videos.

python -m data_prep.verify --data_dir=data/ucf101/train --contact_sheet=ucf101.png
python -m data_prep.verify --data_dir=s3://bucket/ucf101/train --runner=ray --ray_address=auto

Prints one line per fault: file, record (numbered from 0) and reason. A file with damaged framing is read only up to the
damage, because TFRecord cannot find the next record. The exit status is 0 without faults, else 1. --contact_sheet shows
the first, middle and last frame of some videos, with their ids.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import platform
import statistics
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from tganv2_tf import cli, ray_cluster, storage
from tganv2_tf.data.inspection import DamagedError, read_frames, read_record, read_shard
from tganv2_tf.data.manifest import MANIFEST_FILE, REMEDY, Manifest, Shard, checksum
from tganv2_tf.data.records import NO_LABEL, source_video
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.options import option, require
from tganv2_tf.ray_cluster import LOCAL, RunnerOptions
from tganv2_tf.video_io.captions import captioned
from tganv2_tf.video_io.videos import grid, write_image

SHEET_VIDEOS = 24
SHEET_COLUMNS = 4
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class VerifyOptions:
    """Verification options."""

    data_dir: str = option("folder of the shards and their manifest.json")
    num_decoded: int = option("records per shard, drawn at random, of which all frames are decoded", 2)
    contact_sheet: str = option("PNG file to write, with frames of some videos", "", destination="file")
    seed: int = option("seed of the choice of records and videos", 0)

    def __post_init__(self) -> None:
        for name in ("num_decoded", "seed"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a whole number of at least 0")
        if pathlib.Path(self.contact_sheet).suffix.lower() not in ("", ".png") or self.contact_sheet.endswith("/"):
            raise ConfigError(f"--contact_sheet={self.contact_sheet}: valid: a name that ends in .png")


@dataclasses.dataclass
class SourceVideo:
    """Contents of the records of one video.

    Attributes:
      class_name: Class name, or an empty string.
      fps: Frames per second; 0 if unknown.
      num_records: More than one if the video was split into segments.
      num_frames: Total number of frames of its records.
    """

    class_name: str
    fps: float
    num_records: int = 0
    num_frames: int = 0


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Description of the checks of one shard, valid in any process.

    Attributes:
      data_dir: Folder of the shard.
      shard: Entry of the shard in the manifest.
      height: Height of all frames in pixels, from the manifest.
      width: Width of all frames in pixels, from the manifest.
      labels: Class names.
      decoded: Numbers of the records whose frames are all decoded.
      shown: Numbers of the records for which a tile is made.
    """

    data_dir: str
    shard: Shard
    height: int
    width: int
    labels: tuple[str, ...]
    decoded: frozenset[int]
    shown: frozenset[int]


@dataclasses.dataclass
class ShardReport:
    """Contents and faults of a shard.

    Attributes:
      faults: Lines without the file name.
      record_ids: Ids of the readable records, by record number.
      videos: Videos by id.
      tiles: Caption and first, middle and last frame of each `shown` record, uint8 [height, 3 * width, 3].
    """

    faults: list[str] = dataclasses.field(default_factory=list)
    record_ids: dict[int, str] = dataclasses.field(default_factory=dict)
    videos: dict[str, SourceVideo] = dataclasses.field(default_factory=dict)
    tiles: list[tuple[str, np.ndarray]] = dataclasses.field(default_factory=list)


def verify_shard(task: ShardTask) -> ShardReport:
    """Checks one shard.

    Raises:
      UserError: This machine does not see the folder.
    """
    if not storage.is_remote(task.data_dir) and not os.path.isdir(task.data_dir):
        raise UserError(
            f"{task.data_dir}: node {platform.node()} does not see it; put it on a disk that all nodes mount at the "
            "same path, or in a bucket"
        )
    report, path = ShardReport(), storage.join(task.data_dir, task.shard.file)
    fault = task.shard.fault(task.data_dir)
    if fault:
        report.faults.append(fault)
    if storage.exists(path):
        with storage.on_disk(path) as local:
            if fault is None and checksum(local) != task.shard.checksum:
                report.faults.append(f"its checksum differs from {MANIFEST_FILE}: its contents have changed")
            _verify_records(local, task, report)
    return report


def _verify_records(path: str, task: ShardTask, report: ShardReport) -> None:
    num_records, num_frames, all_read = 0, 0, True
    try:
        for serialized in read_shard(path):
            number = num_records
            num_records += 1
            try:
                record = read_record(serialized)
            except DamagedError as error:
                report.faults.append(f"record {number}: {error}")
                all_read = False
                continue
            num_frames += len(record["frames"])
            report.record_ids[number] = _text(record["video_id"])
            video_id = source_video(report.record_ids[number])
            first = SourceVideo(_text(record["label_name"]), float(record["fps"]))
            video = report.videos.setdefault(video_id, first)
            video.num_records += 1
            video.num_frames += len(record["frames"])
            report.faults += (f"record {number}: {fault}" for fault in _faults(record, task))
            try:
                for _ in read_frames(record["frames"] if number in task.decoded else [], task.height, task.width):
                    pass
                if number in task.shown:
                    tile = _tile(record["frames"], task.height, task.width)
                    report.tiles.append((_caption(report.record_ids[number], first.class_name), tile))
            except DamagedError as error:
                report.faults.append(f"record {number}: {error}")
    except DamagedError as error:
        report.faults.append(f"record {num_records}: {error}")
        return
    found = {"num_videos": len(report.videos), "num_records": num_records, "num_frames": num_frames}
    for name, count in found.items():
        expected = getattr(task.shard, name)
        if count != expected and (all_read or name == "num_records"):
            report.faults.append(f"{name} is {count}, but {MANIFEST_FILE} says {expected}")


def _faults(record: dict[str, Any], task: ShardTask) -> Iterator[str]:
    """Yields the faults of a parsed record, except those of its frames."""
    label, labels = int(record["label"]), task.labels
    if record["num_frames"] != len(record["frames"]):
        yield f"it has {len(record['frames'])} frames, but its num_frames is {record['num_frames']}"
    if (record["height"], record["width"]) != (task.height, task.width):
        yield f"{record['width']}x{record['height']} pixels, but {MANIFEST_FILE} says {task.width}x{task.height}"
    if not 0 <= label < len(labels):
        if label != NO_LABEL:
            yield f"label {label}, but {MANIFEST_FILE} has {len(labels)} labels"
    elif labels[label] != _text(record["label_name"]):
        yield f"label {label} is called {_text(record['label_name'])!r}, but {labels[label]!r} in {MANIFEST_FILE}"


def _caption(record_id: str, class_name: str) -> str:
    """Returns the id, followed by the class unless the id contains it."""
    return record_id if class_name in record_id else f"{record_id} ({class_name})"


def _tile(frames: Sequence[bytes], height: int, width: int) -> np.ndarray:
    three = (frames[index] for index in (0, len(frames) // 2, len(frames) - 1))
    return np.concatenate(list(read_frames(three, height, width)), axis=1)


class Verification:
    """Verifies a data set on construction, printing every fault as it is found.

    Attributes:
      num_faults: Number of lines printed.
      videos: Videos of all shards, by id.
      tiles: Tiles of the sampled records, with their captions.
    """

    def __init__(self, manifest: Manifest, options: VerifyOptions, runner: RunnerOptions = LOCAL) -> None:
        self.num_faults = 0
        self.videos: dict[str, SourceVideo] = {}
        self.tiles: list[tuple[str, np.ndarray]] = []
        self._record_ids: set[str] = set()
        interval = 0.5 if sys.stderr.isatty() else 30  # few lines in a log file
        make_bar = functools.partial(tqdm.tqdm, unit="record", desc=manifest.name, mininterval=interval)
        with contextlib.ExitStack() as stack:
            if runner.runner == "ray":
                stack.enter_context(ray_cluster.connected(runner.ray_address))
                reports = ray_cluster.run_tasks(verify_shard, _tasks(manifest, options), runner, ordered=True)
            else:
                reports = ((task, verify_shard(task)) for task in _tasks(manifest, options))
            bar = stack.enter_context(make_bar(total=manifest.num_records))
            for task, report in reports:
                self._add(task.shard.file, report)
                bar.update(task.shard.num_records)

    def _add(self, file: str, report: ShardReport) -> None:
        for number, record_id in report.record_ids.items():
            if record_id in self._record_ids:
                report.faults.append(f"record {number}: duplicate video_id {record_id}")
            self._record_ids.add(record_id)
        for fault in report.faults:
            tqdm.tqdm.write(f"{file}: {fault}")
        self.num_faults += len(report.faults)
        for video_id, found in report.videos.items():
            video = self.videos.setdefault(video_id, SourceVideo(found.class_name, found.fps))
            video.num_records += found.num_records
            video.num_frames += found.num_frames
        self.tiles += report.tiles


def _tasks(manifest: Manifest, options: VerifyOptions) -> Iterator[ShardTask]:
    """Yields one task per shard; the sampled records do not depend on the process that reads them."""
    draw = np.random.default_rng(options.seed)
    on_sheet = _sample(draw, manifest.num_records, SHEET_VIDEOS if options.contact_sheet else 0)
    folder, labels, first = ray_cluster.absolute_path(options.data_dir), tuple(manifest.labels), 0
    for shard in manifest.shards:
        decoded = _sample(draw, shard.num_records, options.num_decoded)
        shown = frozenset(number - first for number in on_sheet if 0 <= number - first < shard.num_records)
        yield ShardTask(folder, shard, manifest.height, manifest.width, labels, decoded, shown)
        first += shard.num_records


def _text(value: bytes) -> str:
    """Decodes UTF-8, replacing invalid bytes."""
    return value.decode("utf-8", "backslashreplace")


def _sample(draw: np.random.Generator, count: int, size: int) -> frozenset[int]:
    """Draws `size` of the numbers 0 .. count - 1, or returns all of them."""
    return frozenset(int(number) for number in draw.choice(count, min(count, size), replace=False))


def summary(manifest: Manifest, videos: Collection[SourceVideo]) -> str:
    """Returns a table with one row per class and a total: videos, frames, seconds per video.

    Args:
      manifest: Manifest of the data set; states how many frames the segments of a video share, counted once in its
        seconds.
      videos: Videos that have been read.
    """
    min_frames = manifest.options.get("min_frames")
    shared = min_frames - 1 if isinstance(min_frames, int) else 0
    lines = [f"{'class':<30}{'videos':>8}{'frames':>10}{'seconds: min':>15}{'median':>9}{'max':>9}"]
    classes = sorted({video.class_name for video in videos} - {""})
    for name in [*classes, ""]:
        chosen = [video for video in videos if name in ("", video.class_name)]
        seconds = [
            (video.num_frames - shared * (video.num_records - 1)) / video.fps for video in chosen if video.fps > 0
        ]
        extremes = (min(seconds), statistics.median(seconds), max(seconds)) if seconds else ()
        columns = [f"{value:.2f}" for value in extremes] or ["unknown"]
        frames = sum(video.num_frames for video in chosen)
        widths = (15, 9, 9)
        line = f"{name or 'all':<30}{len(chosen):>8}{frames:>10}"
        lines.append(line + "".join(f"{column:>{width}}" for column, width in zip(columns, widths)))
    size = sum(shard.bytes for shard in manifest.shards)
    lines.append(
        f"{len(manifest.labels)} classes, {manifest.width}x{manifest.height} pixels, {manifest.num_shards} shards, "
        f"{manifest.num_records} records, {size / MIB:.1f} MiB, "
        f"{len(manifest.skipped)} videos skipped during preparation"
    )
    if manifest.frame_rates:
        rates = ((rate if float(rate) else "unknown", count) for rate, count in manifest.frame_rates.items())
        lines.append("frames per second: " + ", ".join(f"{rate} ({count} videos)" for rate, count in rates))
    lines += [f"note: {each.video!r}: {each.reason}" for each in manifest.damaged]
    return "\n".join(lines)


def main(options: VerifyOptions, runner: RunnerOptions = LOCAL) -> int:
    """Verifies a data set."""
    manifest = Manifest.read(options.data_dir)
    verification = Verification(manifest, options, runner)
    listed = {shard.file for shard in manifest.shards}
    for name in storage.names(options.data_dir):
        if name.endswith(".tfrecord") and name not in listed:
            print(f"note: {name} is not in {MANIFEST_FILE} and is never read")
    print(summary(manifest, verification.videos.values()))
    if verification.tiles:
        captions, tiles = zip(*verification.tiles)
        sheet = grid(captioned(np.stack(tiles)[:, np.newaxis], captions), SHEET_COLUMNS)
        write_image(options.contact_sheet, sheet[0])
        print(f"{options.contact_sheet}: first, middle and last frame of {len(verification.tiles)} videos")
    if verification.num_faults:
        raise UserError(f"{options.data_dir}: {verification.num_faults} faults; {REMEDY}")
    print(f"{options.data_dir}: no faults")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, [VerifyOptions, RunnerOptions], "data_prep.verify", __doc__))
