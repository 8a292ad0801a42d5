"""Throughput of the input pipeline in clips per second, and the time of each stage.

python -m benchmarks.speed.input_pipeline
python -m benchmarks.speed.input_pipeline --data_dir=data/ucf101/train --output=input_pipeline.json

Times are processor times, so that the throughput per core is known on any number of cores: 8 GPUs that consume c clips
per second each need 8 c divided by the clips per second per core. Each stage is measured alone, on the output of the
previous one.

Training steps of the recipe of UCF101 are timed as well, with two clips, on a batch in memory and on batches from
shards, in turns.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from benchmarks.speed import step
from benchmarks.speed.contest import run_seconds
from benchmarks.speed.implementations import tensorflow_model
from benchmarks.speed.rows import Row, compared, report
from tganv2_tf import cli
from tganv2_tf.config import Config, DataConfig, ModelConfig
from tganv2_tf.options import option, require

if TYPE_CHECKING:
    import tensorflow as tf

WARM_UP = 4  # elements


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    data_dir: str = option("folder of shards; none = prepare the synthetic data set", "")
    resolution: int = option("pixels of level 4", 192)
    batch_size: int = option("clips per batch", 8)
    clips: int = option("clips per measurement", 160)
    steps: int = option("training steps per measurement; 0 = none", 5)
    width_divisor: int = option("divisor of all channels in these steps, for a quick test", 1)
    rounds: int = option("number of measurements", 3)
    output: str = option("also write the table to this JSON file", "", destination="file")

    def __post_init__(self) -> None:
        ModelConfig(resolution=self.resolution)  # validates the option
        require(self.batch_size % 8 == 0 < self.batch_size, "batch_size", self.batch_size, "a multiple of 8")
        valid = self.clips % self.batch_size == 0 < self.clips
        require(valid, "clips", self.clips, f"a multiple of --batch_size={self.batch_size}")
        require(self.steps >= 0, "steps", self.steps, "a whole number of at least 0")
        require(self.rounds >= 1, "rounds", self.rounds, "a whole number of at least 1")


def prepare(folder: pathlib.Path, resolution: int) -> str:
    """Prepares shards of the synthetic data set; returns their folder. Raises UserError."""
    videos, shards = folder / "videos", folder / "data"
    run_seconds("data_prep.moving_shapes", f"--output_dir={videos}")
    arguments = [f"--video_dir={videos}", "--split=all", f"--resolution={resolution}", f"--output_dir={shards}"]
    run_seconds("data_prep.ucf101", *arguments)
    return str(shards)


def processor_seconds(dataset: tf.data.Dataset, elements: int) -> tuple[float, float]:
    """Returns processor time and wall time for `elements` elements in seconds, after a warm-up."""
    iterator = iter(dataset)
    for _ in range(WARM_UP):
        next(iterator)
    before, start = time.process_time(), time.perf_counter()
    for _ in range(elements):
        next(iterator)
    return time.process_time() - before, time.perf_counter() - start


def stages(data: DataConfig, model: ModelConfig, batch_size: int) -> dict[str, tuple[tf.data.Dataset, int]]:
    """Returns endless data sets, the whole pipeline and each stage alone, with the number of clips per element."""
    import tensorflow as tf

    from tganv2_tf.data import pipeline
    from tganv2_tf.data.checks import load_manifest
    from tganv2_tf.data.clips import cut_windows, decode_clip, normalize, random_crop_and_flip
    from tganv2_tf.data.reading import RecordPartition
    from tganv2_tf.data.records import parse_record
    from tganv2_tf.subsampling import video_pyramid

    manifest = load_manifest(model, data)
    seed = tf.constant([0, 0], tf.int64)

    def windows(path: tf.Tensor, number: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
        return cut_windows(parse_record(record)["frames"], 1, model.num_frames, data.frame_step, seed)

    def decode(frames: tf.Tensor) -> tf.Tensor:
        return decode_clip(frames, model.num_frames, manifest.height, manifest.width)

    def augment(index: tf.Tensor, clip: tf.Tensor) -> tf.Tensor:
        return random_crop_and_flip(clip, model.resolution, data.flip, tf.stack([0, index]))

    def pyramid(clips: tf.Tensor) -> list[tf.Tensor]:
        levels = video_pyramid(clips, model.pyramid, seed)
        return [normalize(level, data.normalization) for level in levels]

    read = RecordPartition.of(manifest, data.data_dir).read_endlessly(0)
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
        "pyramid, normalisation": (batches.take(1).cache().repeat().map(pyramid), batch_size),
    }


def step_seconds(config: Config, steps: int, rounds: int) -> tuple[list[float], list[float]]:
    """Returns the seconds per training step in each round: on one batch in memory, and on batches from the shards."""
    from tganv2_tf.data import pipeline
    from tganv2_tf.data.checks import load_manifest
    from tganv2_tf.training.distribution import per_replica_batch_size

    network = tensorflow_model(config)
    strategy = network.distribute_strategy
    batch_size = per_replica_batch_size(config, strategy.num_replicas_in_sync)
    manifest = load_manifest(config.model, config.data)
    shards = pipeline.training_dataset(manifest, config.model, config.data, batch_size, config.train.n_dis, 0)
    sources = [shards.take(1).cache().repeat(), shards]
    with strategy.scope():
        train = network.make_train_function()
        batches = [iter(strategy.distribute_datasets_from_function(lambda _, each=each: each)) for each in sources]

        def run(source: int, count: int) -> float:
            start = time.perf_counter()
            for _ in range(count):
                losses = train(batches[source])
            float(losses["generator_loss"])  # wait until the step is finished
            return (time.perf_counter() - start) / count

        for source in (0, 1):
            run(source, WARM_UP)
        took = [(run(0, steps), run(1, steps)) for _ in range(rounds)]
    return [memory for memory, _ in took], [streamed for _, streamed in took]


def main(command: Command) -> int:
    model = ModelConfig(resolution=command.resolution)
    with tempfile.TemporaryDirectory() as temporary:
        folder = command.data_dir or prepare(pathlib.Path(temporary), command.resolution)
        data = DataConfig(data_dir=folder, flip=True, shuffle_buffer=64)
        found = stages(data, model, command.batch_size)
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
        for _ in range(command.rounds):
            for name, (dataset, clips) in found.items():
                took[name].append(processor_seconds(dataset, command.clips // clips))
        medians = {name: [statistics.median(times) for times in zip(*rounds)] for name, rounds in took.items()}
        processor, wall = medians["whole pipeline"]
        rows = [
            Row("whole pipeline, per core", "clips/s", command.clips / processor),
            Row("whole pipeline, this machine", "clips/s", command.clips / wall),
        ]
        rows += [Row(name, "ms/clip", 1000 * processor / command.clips) for name, (processor, _) in medians.items()]
        if command.steps:
            recipe = step.Command(resolution=command.resolution, clips=2, width_divisor=command.width_divisor).config
            config = dataclasses.replace(recipe, data=data)
            memory, streamed = step_seconds(config, command.steps, command.rounds)
            what = f"step, {command.resolution} px, 2 clips, data from shards against memory"
            rows.append(compared(what, "s", streamed, memory, less_is_better=True))
    report("benchmarks.speed.input_pipeline", rows, command.output)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.speed.input_pipeline", __doc__))
