"""Holds the shards of a data set against its manifest: sizes, checksums, every record, and some decoded videos.

python -m data_prep.verify --data_dir=data/ucf101/train --contact_sheet=ucf101.png

Each fault is one line: file, record (numbered from 0), what is wrong. A file whose framing is damaged is read up to
there, as TFRecord does not find the next record. The exit status is 0 where there are no faults and 1 where there are.
--contact_sheet shows the first, middle and last frame of some videos.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import tqdm

from tganv2_tf import cli_flags, storage
from tganv2_tf.config import option, require
from tganv2_tf.data.inspection import DamagedError, read_frames, read_record, read_shard
from tganv2_tf.data.manifest import MANIFEST_FILE, WHAT_TO_DO, Manifest, Shard, checksum
from tganv2_tf.data.records import NO_LABEL, source_video
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.videos import grid, write_image

SHEET_VIDEOS = 24
SHEET_COLUMNS = 4
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class VerifyOptions:
    """What to look at."""

    data_dir: str = option("folder of the shards and their manifest.json")
    num_decoded: int = option("records a shard of which all frames are decoded, drawn at random", 2)
    contact_sheet: str = option("PNG file to make, with frames of some videos", "")
    seed: int = option("seed of the choice of records and videos", 0)

    def __post_init__(self) -> None:
        for name in ("num_decoded", "seed"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a whole number of at least 0")
        if pathlib.Path(self.contact_sheet).suffix.lower() not in ("", ".png") or self.contact_sheet.endswith("/"):
            raise ConfigError(f"--contact_sheet={self.contact_sheet}: valid: a name that ends in .png")


@dataclasses.dataclass
class SourceVideo:
    """What the records of one video say.

    Attributes:
      class_name: or nothing.
      fps: frames a second; 0 where it is unknown.
      num_records: more than one where it was cut into segments.
      num_frames: of all its records.
    """

    class_name: str
    fps: float
    num_records: int = 0
    num_frames: int = 0


class Verification:
    """One reading of a data set, done when it is made: every fault is printed as it is found.

    Attributes:
      num_faults: lines printed.
      videos: by their ids, over all shards.
      tiles: first, middle and last frame of the sampled records, uint8 [height, 3 * width, 3] each.
    """

    def __init__(self, manifest: Manifest, options: VerifyOptions) -> None:
        self.num_faults = 0
        self.videos: dict[str, SourceVideo] = {}
        self.tiles: list[np.ndarray] = []
        self._manifest, self._options = manifest, options
        self._record_ids: set[str] = set()
        draw = np.random.default_rng(options.seed)
        on_sheet = _sample(draw, manifest.num_records, SHEET_VIDEOS if options.contact_sheet else 0)
        interval = 0.5 if sys.stderr.isatty() else 30  # not a line every moment in a log file
        first = 0
        with tqdm.tqdm(total=manifest.num_records, unit="record", desc=manifest.name, mininterval=interval) as bar:
            for shard in manifest.shards:
                decoded = _sample(draw, shard.num_records, options.num_decoded)
                self._verify(shard, decoded, {number - first for number in on_sheet}, bar)
                first += shard.num_records

    def _report(self, file: str, fault: str) -> None:
        self.num_faults += 1
        tqdm.tqdm.write(f"{file}: {fault}")

    def _verify(self, shard: Shard, decoded: set[int], shown: set[int], bar: tqdm.tqdm) -> None:
        path = storage.join(self._options.data_dir, shard.file)
        fault = shard.fault(self._options.data_dir)
        if fault:
            self._report(shard.file, fault)
        if not storage.exists(path):
            return
        with storage.on_disk(path) as local:
            self._verify_content(local, shard, fault is None, decoded, shown, bar)

    def _verify_content(
        self, path: str, shard: Shard, has_its_size: bool, decoded: set[int], shown: set[int], bar: tqdm.tqdm
    ) -> None:
        if has_its_size and checksum(path) != shard.checksum:
            self._report(shard.file, f"its checksum is not the one in {MANIFEST_FILE}: other bytes than were written")
        video_ids, num_records, num_frames, all_read = set(), 0, 0, True
        try:
            for serialized in read_shard(path):
                number = num_records
                num_records += 1
                bar.update()
                try:
                    record = read_record(serialized)
                except DamagedError as error:
                    self._report(shard.file, f"record {number}: {error}")
                    all_read = False
                    continue
                video_ids.add(self._add(record))
                num_frames += len(record["frames"])
                for fault in self._faults(record, number in decoded, number in shown):
                    self._report(shard.file, f"record {number}: {fault}")
        except DamagedError as error:
            self._report(shard.file, f"record {num_records}: {error}")
            return
        found = {"num_videos": len(video_ids), "num_records": num_records, "num_frames": num_frames}
        for name, count in found.items():
            if count != getattr(shard, name) and (all_read or name == "num_records"):
                self._report(shard.file, f"{name} is {count}, but {MANIFEST_FILE} says {getattr(shard, name)}")

    def _add(self, record: dict[str, Any]) -> str:
        """Counts a record to its video, whose id it returns."""
        video_id = source_video(_text(record["video_id"]))
        video = self.videos.setdefault(video_id, SourceVideo(_text(record["label_name"]), float(record["fps"])))
        video.num_records += 1
        video.num_frames += len(record["frames"])
        return video_id

    def _faults(self, record: dict[str, Any], decoded: bool, shown: bool) -> Iterator[str]:
        """What is wrong with a record that could be parsed; keeps its tile where it is `shown`."""
        record_id, label, frames = _text(record["video_id"]), int(record["label"]), record["frames"]
        height, width, labels = self._manifest.height, self._manifest.width, self._manifest.labels
        if record_id in self._record_ids:
            yield f"video_id {record_id} is there a second time"
        self._record_ids.add(record_id)
        if record["num_frames"] != len(frames):
            yield f"it has {len(frames)} frames and says {record['num_frames']}"
        if (record["height"], record["width"]) != (height, width):
            yield f"{record['width']}x{record['height']} pixels, but {MANIFEST_FILE} says {width}x{height}"
        if not 0 <= label < len(labels):
            if label != NO_LABEL:
                yield f"label {label}, but {MANIFEST_FILE} has {len(labels)} labels"
        elif labels[label] != _text(record["label_name"]):
            yield f"label {label} is called {_text(record['label_name'])!r}, but {labels[label]!r} in {MANIFEST_FILE}"
        try:
            for _ in read_frames(frames if decoded else [], height, width):
                pass
            if shown:
                three = (frames[index] for index in (0, len(frames) // 2, len(frames) - 1))
                self.tiles.append(np.concatenate(list(read_frames(three, height, width)), axis=1))
        except DamagedError as error:
            yield str(error)


def _text(value: bytes) -> str:
    """UTF-8, but for damage."""
    return value.decode("utf-8", "backslashreplace")


def _sample(draw: np.random.Generator, count: int, size: int) -> set[int]:
    """`size` of the numbers 0 .. count - 1, or all of them."""
    return {int(number) for number in draw.choice(count, min(count, size), replace=False)}


def summary(manifest: Manifest, videos: Collection[SourceVideo]) -> str:
    """A table with a row a class and one for all: videos, frames, seconds a video.

    Args:
      manifest: tells how many frames segments of one video share; those count once in its seconds.
      videos: that have been read.
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
        f"{manifest.num_records} records, {size / MIB:.1f} MiB, {len(manifest.skipped)} videos skipped when it was made"
    )
    return "\n".join(lines)


def main(options: VerifyOptions) -> int:
    """Verifies a data set."""
    manifest = Manifest.read(options.data_dir)
    verification = Verification(manifest, options)
    listed = {shard.file for shard in manifest.shards}
    for name in storage.names(options.data_dir):
        if name.endswith(".tfrecord") and name not in listed:
            print(f"note: {name} is not in {MANIFEST_FILE}, and nothing reads it")
    print(summary(manifest, verification.videos.values()))
    if verification.tiles:
        write_image(options.contact_sheet, grid(np.stack(verification.tiles)[:, np.newaxis], SHEET_COLUMNS)[0])
        print(f"{options.contact_sheet}: first, middle and last frame of {len(verification.tiles)} videos")
    if verification.num_faults:
        raise UserError(f"{options.data_dir}: {verification.num_faults} faults; {WHAT_TO_DO}")
    print(f"{options.data_dir}: no faults")
    return 0


if __name__ == "__main__":
    sys.exit(cli_flags.run(main, [VerifyOptions], "data_prep.verify", __doc__))
