"""How many clips the input pipeline gives, and which of its stages takes how long.

python -m benchmarks.input_pipeline
python -m benchmarks.input_pipeline --data_dir=data/ucf101/train --output=input_pipeline.json

Times are those of the processor, so that one core's share is known however many there are: 8 GPUs that consume c clips
a second each need 8 c divided by the clips a second a core. Each stage is measured alone, on what the one before gave.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.rows import Row, report
from tganv2_tf import cli_flags
from tganv2_tf.config import DataConfig, ModelConfig, option, require
from tganv2_tf.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

WARM_UP = 4  # elements


@dataclasses.dataclass(frozen=True)
class Command:
    """The benchmark."""

    data_dir: str = option("folder of shards; nothing = of the embedded data set, made for it", "")
    resolution: int = option("pixels of level 4", 192)
    batch_size: int = option("clips of a batch", 8)
    clips: int = option("clips of each measurement", 160)
    rounds: int = option("how often everything is measured", 3)
    output: str = option("JSON file for the table as well", "")

    def __post_init__(self) -> None:
        ModelConfig(resolution=self.resolution)  # says what is wrong with it
        require(self.batch_size % 8 == 0 < self.batch_size, "batch_size", self.batch_size, "a multiple of 8")
        valid = self.clips % self.batch_size == 0 < self.clips
        require(valid, "clips", self.clips, f"a multiple of --batch_size={self.batch_size}")
        require(self.rounds >= 1, "rounds", self.rounds, "a whole number of at least 1")


@contextlib.contextmanager
def shards(command: Command) -> Iterator[str]:
    """The folder of the data set: the one that was given, or one of moving shapes that goes with the block."""
    if command.data_dir:
        yield command.data_dir
        return
    with tempfile.TemporaryDirectory() as folder:
        videos, data = pathlib.Path(folder, "videos"), pathlib.Path(folder, "data")
        for arguments in (
            ["data_prep.moving_shapes", f"--output_dir={videos}"],
            ["data_prep.ucf101", f"--video_dir={videos}", f"--output_dir={data}", "--split=all"]
            + [f"--resolution={command.resolution}"],
        ):
            done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{arguments[0]}: {done.stderr.strip().splitlines()[-1]}")
        yield str(data)


def processor_seconds(dataset: tf.data.Dataset, elements: int) -> tuple[float, float]:
    """Processor time and time for so many elements, in seconds, once the first ones are there."""
    iterator = iter(dataset)
    for _ in range(WARM_UP):
        next(iterator)
    before, start = time.process_time(), time.perf_counter()
    for _ in range(elements):
        next(iterator)
    return time.process_time() - before, time.perf_counter() - start


def stages(data: DataConfig, model: ModelConfig, batch_size: int) -> dict[str, tuple[tf.data.Dataset, int]]:
    """Endless data sets: the whole pipeline and each stage alone, and how many clips an element of each has."""
    import tensorflow as tf

    from tganv2_tf.data import pipeline
    from tganv2_tf.data.reading import Share
    from tganv2_tf.data.records import parse_record
    from tganv2_tf.subsampling import video_pyramid

    manifest = pipeline.load_manifest(model, data)
    seed = tf.constant([0, 0], tf.int64)

    def windows(path: tf.Tensor, number: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        return pipeline.cut_windows(parse_record(record)["frames"], 1, model.num_frames, data.frame_step, seed)

    def decode(frames: tf.Tensor) -> tf.Tensor:
        return pipeline.decode_clip(frames, model.num_frames, manifest.height, manifest.width)

    def augment(index: tf.Tensor, clip: tf.Tensor) -> tf.Tensor:
        return pipeline.augment(clip, model.resolution, data.flip, tf.stack([0, index]))

    def pyramid(clips: tf.Tensor) -> list[tf.Tensor]:
        return video_pyramid(pipeline.normalize(clips, data.normalization), model.pyramid, seed)

    read = Share.of(manifest, data.data_dir).read_endlessly(0)
    encoded = read.map(windows).unbatch().take(batch_size).cache().repeat()
    decoded = encoded.take(batch_size).map(decode).cache().repeat()
    cropped = decoded.take(batch_size).enumerate().map(augment).cache().repeat()
    batches = cropped.batch(batch_size, drop_remainder=True)
    return {
        "whole pipeline": (pipeline.training_dataset(manifest, model, data, batch_size, 1, 0), batch_size),
        "reading, windows": (read.map(windows), 1),
        "decoding": (encoded.map(decode), 1),
        "crop, flip": (decoded.enumerate().map(augment), 1),
        "batch": (batches, batch_size),
        "normalisation, pyramid": (batches.take(1).cache().repeat().map(pyramid), batch_size),
    }


def main(command: Command) -> int:
    model = ModelConfig(resolution=command.resolution)
    with shards(command) as folder:
        data = DataConfig(data_dir=folder, flip=True, shuffle_buffer=64)
        found = stages(data, model, command.batch_size)
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
        for _ in range(command.rounds):
            for name, (dataset, clips) in found.items():
                took[name].append(processor_seconds(dataset, command.clips // clips))
    whole = took["whole pipeline"]
    rows = [
        Row("whole pipeline, a core", "clips/s", command.clips / statistics.median(cpu for cpu, _ in whole)),
        Row("whole pipeline, this machine", "clips/s", command.clips / statistics.median(wall for _, wall in whole)),
    ]
    for name, times in took.items():
        rows.append(Row(name, "ms/clip", 1000 * statistics.median(cpu for cpu, _ in times) / command.clips))
    report("input_pipeline", rows, command.output)
    return 0


if __name__ == "__main__":
    sys.exit(cli_flags.run(main, (Command,), "benchmarks.input_pipeline", __doc__))
