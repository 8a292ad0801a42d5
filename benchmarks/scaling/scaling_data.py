"""Cost of millions of videos apart from decoding: plans, manifests, orders, reports and checks of made-up videos.

python -m benchmarks.scaling.scaling_data
python -m benchmarks.scaling.scaling_data --videos=100000 --target=10000000 --output=scaling_data.json

Each task is done by the package's own functions on fewer videos, and its cost is extrapolated to the target: linearly,
or, if doubling the number more than doubles the cost, by the measured power. Shards have as many videos as UCF101's
would have at 192 pixels and 128 MiB.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
import pickle
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep import sources
from data_prep.data_set import DataSet
from data_prep.options import ShardingOptions
from data_prep.planning import shuffled
from data_prep.readers import read_resized
from data_prep.shard_writer import ShardTask, Video
from tganv2_tf import cli, storage
from tganv2_tf.config import DataConfig, EvalConfig
from tganv2_tf.data.manifest import Manifest, Shard, checksum, shard_name
from tganv2_tf.data.records import encode_record, write_record
from tganv2_tf.options import option, require
from tganv2_tf.storage.files import write_atomically

# UCF101 at 192 pixels: 27 hours at 25 frames per second in 13,320 videos, 14 KB per frame (docs/ucf101.md: 12 to 16).
FRAMES_PER_VIDEO = 182
BYTES_PER_FRAME = 14_000
SHARD_BYTES = 128 * 2**20
VIDEOS_PER_SHARD = round(SHARD_BYTES / (FRAMES_PER_VIDEO * BYTES_PER_FRAME))
CLASSES = 101
SIZE = 192
READER = functools.partial(read_resized, geometry="paper", resolution=SIZE)


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    videos: int = option("number of made-up videos", 500_000)
    target: int = option("number of videos to extrapolate to", 10_000_000)
    output: str = option("also write the figures to this JSON file", "", destination="file")

    def __post_init__(self) -> None:
        least = 16 * VIDEOS_PER_SHARD
        require(self.videos >= least, "videos", self.videos, f"a whole number of at least {least}")
        require(self.target >= self.videos, "target", self.target, f"at least --videos={self.videos}")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One figure.

    Attributes:
      what: Name of the measured quantity.
      pieces: Number of videos or shards measured, as text.
      measured: Measured value, in `unit`.
      target: Extrapolated value at the target, in `unit`.
      unit: Unit of both.
      power: Exponent of the growth with the number of pieces; 1 = linear.
    """

    what: str
    pieces: str
    measured: float
    target: float
    unit: str
    power: float = 1.0


def growth_exponent(smaller: float, larger: float) -> float:
    """Returns the exponent with which a cost grows, from its values at one size and at twice that size."""
    return math.log2(larger / smaller)


def resident_bytes() -> int:
    """Returns the memory of this process in bytes."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Returns the duration in seconds and the result of a call."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def made_up_videos(number: int) -> list[Video]:
    """Returns videos with names as long as UCF101's and without files."""

    def video(index: int) -> Video:
        label = index % CLASSES
        file = f"class{label:03d}/v_class{label:03d}_g{index:08d}_c01.avi"
        return Video(file, f"/mnt/videos/{file}", label, f"class{label:03d}")

    return [video(index) for index in range(number)]


def made_up_manifest(shards: int) -> Manifest:
    """Returns a manifest of shards that do not exist."""
    size = VIDEOS_PER_SHARD * FRAMES_PER_VIDEO * BYTES_PER_FRAME
    frames = VIDEOS_PER_SHARD * FRAMES_PER_VIDEO
    entries = [
        Shard(
            shard_name("videos", "train", index, shards),
            size,
            f"sha256:{index:064x}",
            VIDEOS_PER_SHARD,
            VIDEOS_PER_SHARD,
            frames,
        )
        for index in range(shards)
    ]
    return Manifest(
        "videos",
        "train",
        SIZE,
        SIZE,
        [f"class{label:03d}" for label in range(CLASSES)],
        {},
        entries,
        videos_per_class=[shards * VIDEOS_PER_SHARD // CLASSES] * CLASSES,
        sources=[
            sources.in_manifest(f"{shard} {index}" for index in range(VIDEOS_PER_SHARD)) for shard in range(shards)
        ],
    )


class Measurement:
    """All measurements, in a scratch folder."""

    def __init__(self, command: Command, folder: pathlib.Path) -> None:
        self.videos, self.target, self.folder = command.videos, command.target, folder
        self.shards, self.target_shards = command.videos // VIDEOS_PER_SHARD, command.target // VIDEOS_PER_SHARD

    def extrapolate_videos(self, what: str, measured: float, unit: str) -> Finding:
        """Extrapolates linearly in the number of videos."""
        return Finding(what, f"{self.videos:,} videos", measured, measured * self.target / self.videos, unit)

    def extrapolate_shards(
        self, what: str, measured: float, unit: str, shards: int = 0, power: float = 1.0, bytes_per_shard: int = 0
    ) -> Finding:
        """Extrapolates by a power of the number of shards, and linearly in their size if `bytes_per_shard` is given."""
        number = shards or self.shards
        extended = measured * (self.target_shards / number) ** power
        if bytes_per_shard:
            extended *= VIDEOS_PER_SHARD * FRAMES_PER_VIDEO * BYTES_PER_FRAME / bytes_per_shard
        pieces = f"{number:,} shards" if number > 1 else "1 shard"
        return Finding(what, pieces, measured, extended, unit, power)

    def preparation(self) -> Iterator[Finding]:
        """Measures the work before the first shard, and besides decoding."""
        before = resident_bytes()
        seconds, videos = timed(lambda: made_up_videos(self.videos))
        yield self.extrapolate_videos("preparation: list of videos, memory", (resident_bytes() - before) / 1e9, "GB")
        seconds, order = timed(lambda: shuffled(videos, 0))
        yield self.extrapolate_videos("preparation: their order", seconds, "s")
        labels = [f"class{label:03d}" for label in range(CLASSES)]
        data_set = DataSet("videos", "train", SIZE, SIZE, labels, videos, [], READER, {})
        seconds, _ = timed(lambda: data_set.made_with(ShardingOptions(str(self.folder))))
        yield self.extrapolate_videos("preparation: digest of the list", seconds, "s")
        there = dataclasses.replace(videos[0], path=str(self.folder / "one.avi"))
        (self.folder / "one.avi").touch()
        before = resident_bytes()
        seconds, states = timed(lambda: [sources.state(there) for _ in videos])
        yield self.extrapolate_videos("preparation: state of each file, on this disk", seconds, "s")
        yield self.extrapolate_videos("preparation: states, memory", (resident_bytes() - before) / 1e9, "GB")
        options = ShardingOptions(str(self.folder))
        task = ShardTask(
            0,
            str(self.folder / shard_name("videos", "train", 0, self.target_shards)),
            str(self.folder / "0.tmp"),
            tuple(order[:VIDEOS_PER_SHARD]),
            READER,
            options.encoding,
            options.jpeg_quality,
            options.min_frames,
            options.max_record_frames,
        )
        yield Finding("preparation: a pickled task", "1 shard", len(pickle.dumps(task)) / 1e3, 0, "KB")
        sidecar = json.dumps({"sources": states[:VIDEOS_PER_SHARD]}, indent=2)
        paths = [self.folder / "reports" / f"{index}.json" for index in range(min(1000, self.shards))]

        def write() -> None:
            for path in paths:
                write_atomically(path, sidecar)

        seconds, _ = timed(write)
        yield self.extrapolate_shards("preparation: reports of shards, written one by one", seconds, "s", len(paths))
        seconds, _ = timed(lambda: [storage.read_text(path) for path in paths])
        yield self.extrapolate_shards("preparation: the same, read to resume", seconds, "s", len(paths))

    def manifest(self) -> Iterator[Finding]:
        """Measures writing and reading the manifest and functions of it."""
        manifest = made_up_manifest(self.shards)
        folder = self.folder / "data"
        seconds, _ = timed(lambda: manifest.save(folder))
        yield self.extrapolate_shards("manifest: written", seconds, "s")
        yield self.extrapolate_shards("manifest: size", (folder / "manifest.json").stat().st_size / 1e6, "MB")
        before = resident_bytes()
        seconds, read = timed(lambda: Manifest.read(folder))
        yield self.extrapolate_shards("manifest: read", seconds, "s")
        yield self.extrapolate_shards("manifest: memory", (resident_bytes() - before) / 1e6, "MB")
        seconds, _ = timed(lambda: [shard.fault(folder) for shard in read.shards])
        yield self.extrapolate_shards("manifest: size of each shard, on this disk", seconds, "s")
        from tganv2_tf.evaluation.real_features import describe_real

        real = json.dumps(describe_real(DataConfig(), manifest, EvalConfig()))
        yield self.extrapolate_shards("evaluation: the shards in each report", len(real) / 1e6, "MB")

    def reading(self) -> Iterator[Finding]:
        """Measures the order of an epoch."""
        from tganv2_tf.data.reading import RecordPartition

        def begin(number: int) -> float:
            share = RecordPartition.of(made_up_manifest(number), str(self.folder))
            return min(timed(lambda: share.read_endlessly(0))[0] for _ in range(2))

        number = min(4000, self.shards // 2)
        begin(16)  # TensorFlow initializes
        smaller, larger = begin(number), begin(2 * number)
        power = max(1.0, growth_exponent(smaller, larger))
        yield self.extrapolate_shards("training: start of the stream of records", larger, "s", 2 * number, power)

    def checks(self) -> Iterator[Finding]:
        """Checks one full-size shard by checksum and with `data_prep.verify`."""
        import cv2

        from data_prep.verify import SourceVideo, Verification, VerifyOptions

        noise = np.random.default_rng(0).normal(128, 18, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)
        frame = cv2.imencode(".jpg", cv2.GaussianBlur(noise, (0, 0), 0.6), [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
        data = self.folder / "shard"
        data.mkdir()
        file = shard_name("videos", "train", 0, 1)
        with open(data / file, "wb") as out:
            for video in made_up_videos(VIDEOS_PER_SHARD):
                record = encode_record(
                    [frame] * FRAMES_PER_VIDEO,
                    video_id=video.id,
                    label=video.label,
                    label_name=video.label_name,
                    height=SIZE,
                    width=SIZE,
                )
                write_record(out, record)
        size = os.path.getsize(data / file)

        def extrapolate_bytes(what: str, seconds: float) -> Finding:
            return self.extrapolate_shards(what, seconds, "s", 1, bytes_per_shard=size)

        seconds, digest = timed(lambda: checksum(data / file))
        yield extrapolate_bytes(f"preparation: checksums of shards, to resume; here of {size / 1e6:.0f} MB", seconds)
        count = VIDEOS_PER_SHARD
        entry = Shard(file, size, digest, count, count, count * FRAMES_PER_VIDEO)
        manifest = dataclasses.replace(made_up_manifest(1), shards=[entry])
        manifest.save(data)
        seconds, found = timed(lambda: Verification(manifest, VerifyOptions(str(data))))
        assert not found.num_faults
        yield extrapolate_bytes("data_prep.verify", seconds)
        before = resident_bytes()
        names = [f"v_class{index % CLASSES:03d}_g{index:08d}_c01" for index in range(self.videos)]
        kept = {name: SourceVideo(f"class{index % CLASSES:03d}", 25.0, 1, 182) for index, name in enumerate(names)}
        ids = set(kept)
        yield self.extrapolate_videos(
            "data_prep.verify: facts of each video, memory", (resident_bytes() - before) / 1e9, "GB"
        )
        assert len(ids) == self.videos

    def all(self) -> Iterator[Finding]:
        """Yields all findings."""
        for part in (self.preparation, self.manifest, self.reading, self.checks):
            yield from part()


def shown(value: float, unit: str) -> str:
    """Formats a value with a suitable unit."""
    if unit == "s" and value >= 7200:
        return f"{value / 3600:.3g} h"
    if unit == "s" and value >= 120:
        return f"{value / 60:.3g} min"
    return f"{value:.3g} {unit}"


def markdown(findings: list[Finding], target: int) -> str:
    """Returns a table."""
    lines = [f"| what | measured at | measured | at {target:,} videos |", "|---|---|---|---|"]
    for found in findings:
        extended = shown(found.target, found.unit) if found.target else "the same"
        if found.power > 1.2:
            extended += f" (grows with exponent {found.power:.1f})"
        lines.append(f"| {found.what} | {found.pieces} | {shown(found.measured, found.unit)} | {extended} |")
    return "\n".join(lines)


def main(command: Command) -> int:
    with tempfile.TemporaryDirectory() as folder:
        findings = list(tqdm(Measurement(command, pathlib.Path(folder)).all(), desc="measuring", unit="figure"))
    shards, gigabytes = command.target // VIDEOS_PER_SHARD, command.target * FRAMES_PER_VIDEO * BYTES_PER_FRAME / 1e9
    print(f"{command.target:,} videos: {shards:,} shards of {VIDEOS_PER_SHARD} videos, {gigabytes / 1e3:,.1f} TB")
    print(markdown(findings, command.target))
    if command.output:
        write_atomically(command.output, json.dumps([dataclasses.asdict(found) for found in findings], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.scaling.scaling_data", __doc__ or ""))
