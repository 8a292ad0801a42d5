"""Quality after equal time: the recipe of the synthetic data trained with the package and with PyTorch, side by side.

python -m benchmarks.speed.race --data_dir=demo/data/train --classifier=demo/classifier.npz --output=race.json

`ours` is `python -m tganv2_tf.train` without previews. The baseline is benchmarks/speed/torch_training.py
(requirements-peers.txt): the same networks and step in PyTorch, the same recipe and initial weights, on videos decoded
in advance. Both start at the same time, each on its own core, and are timed as whole commands, with imports and graph
construction. At each of `--minutes` the averaged generators are kept: for ours the newest checkpoint, for the baseline
the result of the current step. Afterwards all are scored with tganv2_tf.evaluate. The folder contains both sides as
runs, RACE/ours/after-10 and RACE/baseline/after-10, from which tganv2_tf.generate makes videos.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.speed import implementations, rows
from benchmarks.speed.rows import Row, report
from tganv2_tf import cli
from tganv2_tf.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require
from tganv2_tf.storage.files import read_npz

if TYPE_CHECKING:
    from tganv2_tf.models.generator import Generator

RECIPE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "race.flags")
NEVER = 10**9  # steps; the time ends the training


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    data_dir: str = option("folder of the training shards")
    classifier: str = option("C3D for the scores, written by tganv2_tf.train_classifier")
    work_dir: str = option("new folder for both runs; none = a temporary one", "")
    test_data_dir: str = option("shards of other real videos to score for comparison; none = skip", "")
    flagfile_of_run: str = option("recipe", RECIPE)
    minutes: str = option("training times at which both are compared; the last is the end", "3,6,10")
    checkpoint_every_steps: int = option("steps between our checkpoints", 50)
    num_samples: int = option("generated videos per repetition of a score", 1000)
    repetitions: int = option("repetitions of each score", 3)
    output: str = option("also write the table to this JSON file", "", destination="file")

    def __post_init__(self) -> None:
        try:
            valid = list(self.snapshot_minutes) == sorted(set(self.snapshot_minutes)) and self.snapshot_minutes[0] > 0
        except ValueError:
            valid = False
        require(valid, "minutes", self.minutes, "numbers above 0 in ascending order, such as 3,6,10")

    @property
    def snapshot_minutes(self) -> tuple[float, ...]:
        """`minutes` as numbers."""
        return tuple(float(minutes) for minutes in self.minutes.split(","))

    @property
    def flags(self) -> list[str]:
        """Flags of our training. It has no previews, as the baseline has none."""
        return [
            f"--flagfile={self.flagfile_of_run}",
            f"--data_dir={self.data_dir}",
            f"--model_dir={pathlib.Path(self.work_dir, 'ours')}",
            f"--checkpoint_every_steps={self.checkpoint_every_steps}",
            f"--train_steps={NEVER}",
            f"--preview_every_steps={NEVER}",
        ]

    @property
    def config(self) -> Config:
        """Configuration of the run and its evaluation, from these flags."""
        options = (ModelConfig, DataConfig, TrainConfig, EvalConfig)
        config = Config(*cli.parse(self.flags, *options))
        scores = dataclasses.replace(
            config.eval,
            classifier=self.classifier,
            num_samples=self.num_samples,
            repetitions=self.repetitions,
            cache_dir=str(pathlib.Path(self.work_dir, "cache")),
        )
        return dataclasses.replace(config, eval=scores)


class Snapshot(NamedTuple):
    """An averaged generator, as a checkpoint or the folder of a run, and its number of steps."""

    path: str
    steps: int


def prepare(config: Config, folder: pathlib.Path) -> None:
    """Writes the initial weights of both sides, `weights.npz`, and all videos for the baseline, `videos.npz`."""
    from tganv2_tf.data.manifest import Manifest
    from tganv2_tf.data.reading import RecordPartition
    from tganv2_tf.data.records import decode_frame, parse_record
    from tganv2_tf.interop.chainer import discriminator_weights, generator_weights

    model = implementations.tensorflow_model(config)
    weights = {**generator_weights(model.generator), **discriminator_weights(model.discriminator)}
    arrays = {name: weight.to_chainer(weight.variable.numpy()) for name, weight in weights.items()}
    np.savez(folder / "weights.npz", **arrays)
    manifest = Manifest.load(config.data.data_dir)
    records = RecordPartition.of(manifest, config.data.data_dir).read()
    videos = [parse_record(serialized)["frames"] for _, _, serialized in records]
    frames = np.stack([decode_frame(frame).numpy() for video in videos for frame in video])
    np.savez(folder / "videos.npz", frames=frames, lengths=np.array([len(video) for video in videos]))


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Restricts this thread, and processes that it starts, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def train_baseline(config: Config, folder: str, snapshot_minutes: Sequence[float], start: float) -> None:
    """Main function of the baseline's process, the only one that uses PyTorch."""
    from benchmarks.speed.torch_training import train

    train(config, folder, snapshot_minutes, start)


def wait(process: subprocess.Popen[bytes], until: float) -> None:
    """Waits until a time on the clock of time.time(). Raises UserError if our training ends before."""
    try:
        status = process.wait(max(0.0, until - time.time()))
    except subprocess.TimeoutExpired:
        return
    raise UserError(f"tganv2_tf.train ended with status {status} before its time was over; see ours.log")


def processor_time(pid: int) -> float:
    """Returns the processor time of a process with all its threads, in seconds."""
    fields = pathlib.Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def equal_time_comparison(command: Command) -> Row:
    """Trains both; writes RACE/ours/after-MINUTES and RACE/baseline/after-MINUTES.npz at the given moments.

    Returns:
      Processor time of each; other processes may have used their cores, too.
    Raises:
      UserError: One of them failed, or ours had no checkpoint at the first moment.
    """
    from tganv2_tf.runs import latest_checkpoint
    from tganv2_tf.training.snapshots import keep_snapshot

    cores, folder = sorted(os.sched_getaffinity(0)), pathlib.Path(command.work_dir)
    if len(cores) < 2:
        raise UserError("the comparison needs two processor cores, one per side")
    (folder / "baseline").mkdir()
    with contextlib.ExitStack() as stack:
        with on_core(cores[1]):
            arguments = (command.config, command.work_dir, command.snapshot_minutes, time.time())
            theirs = multiprocessing.get_context("spawn").Process(target=train_baseline, args=arguments)
            theirs.start()
            stack.callback(theirs.join)
            stack.callback(theirs.kill)
        with on_core(cores[0]):
            log = stack.enter_context(open(folder / "ours.log", "wb"))
            start = time.time()
            training = [sys.executable, "-m", "tganv2_tf.train", *command.flags]
            ours = stack.enter_context(subprocess.Popen(training, stdout=log, stderr=log))
            stack.callback(ours.kill)
        for minutes in command.snapshot_minutes:
            wait(ours, start + 60 * minutes)
            newest = latest_checkpoint(folder / "ours")
            if newest is None:
                raise UserError(f"tganv2_tf.train has no checkpoint after {minutes:g} minutes; increase --minutes")
            keep_snapshot(newest, f"after-{minutes:g}")
        processor_row = Row("processor time", "s", processor_time(ours.pid), processor_time(theirs.pid or 0))
        ours.send_signal(signal.SIGTERM)  # it saves a checkpoint and ends
        ours.wait()
        theirs.join()
        if theirs.exitcode:
            raise UserError(f"the baseline ended with status {theirs.exitcode}")
    return processor_row


def assign(generator: Generator, arrays: Mapping[str, np.ndarray]) -> None:
    """Assigns the weights and statistics, by the names of the authors' files, to a generator."""
    from tganv2_tf.interop.chainer import generator_weights

    for name, weight in generator_weights(generator).items():
        weight.variable.assign(weight.from_chainer(arrays[name]))


def snapshots(command: Command) -> dict[float, tuple[Snapshot, Snapshot]]:
    """Returns our snapshot and the baseline's at each moment. Converts the baseline's to runs."""
    from tganv2_tf.models.generator import Generator
    from tganv2_tf.pretrained import save_generator
    from tganv2_tf.runs import Run

    config, folder, found = command.config, pathlib.Path(command.work_dir), {}
    for minutes in command.snapshot_minutes:
        ours = Run.open(str(folder / "ours" / f"after-{minutes:g}")).checkpoint or ""
        theirs = folder / "baseline" / f"after-{minutes:g}"
        arrays = read_npz(f"{theirs}.npz", "benchmarks.speed.race")
        generator, steps = Generator(config.model), int(arrays["step"])
        assign(generator, arrays)
        save_generator(generator, Run.open(folder / "ours"), steps, theirs)
        found[minutes] = Snapshot(ours, int(ours.rpartition("-")[2])), Snapshot(str(theirs), steps)
    return found


def table(
    snapshot_pairs: Mapping[float, tuple[Snapshot, Snapshot]],
    distances: Mapping[str, Sequence[float]],
    test: Sequence[float],
) -> list[Row]:
    """Returns the rows.

    Args:
      snapshot_pairs: Our snapshot and the baseline's at each moment.
      distances: The C3D FIDs of each path, one per repetition.
      test: The same for other real videos; empty if not requested.
    """
    found = []
    for minutes, (ours, theirs) in snapshot_pairs.items():
        when, scores = f"after {minutes:g} minutes", (distances[ours.path], distances[theirs.path])
        found.append(rows.compared(f"C3D FID {when}", "", *scores, less_is_better=True))
        found.append(rows.compared(f"steps {when}", "steps", [ours.steps], [theirs.steps], less_is_better=False))
    if test:
        found.append(Row("C3D FID of other real videos", "", float(np.median(test))))
    return found


def score(command: Command, snapshot_pairs: Mapping[float, tuple[Snapshot, Snapshot]]) -> list[Row]:
    """Scores all snapshots as tganv2_tf.evaluate does; returns the rows."""
    import tensorflow as tf

    from tganv2_tf.data.manifest import Manifest
    from tganv2_tf.evaluation import protocol, samples
    from tganv2_tf.evaluation.networks import load_c3d_network
    from tganv2_tf.evaluation.real_features import real_features
    from tganv2_tf.pretrained import load_generator
    from tganv2_tf.runs import Run

    config = command.config
    networks = {"c3d": load_c3d_network(config.eval)}
    manifest = Manifest.load(command.data_dir)
    real = {"c3d": real_features(networks["c3d"], manifest, config.data, config.eval)}

    def distances(videos: samples.Batches) -> list[float]:
        return protocol.evaluate(["c3d_fid"], videos, networks, real, config.eval)["c3d_fid"].values

    def generated(path: str) -> samples.Batches:
        generator, _ = load_generator(Run.open(path))
        sample = tf.function(lambda z, labels: generator(z, num_frames=samples.NUM_FRAMES), reduce_retracing=True)
        return samples.generator_batches(sample, config.model.z_dim, 0, config.eval.eval_batch_size)

    test = []
    if command.test_data_dir:
        data = dataclasses.replace(config.data, data_dir=command.test_data_dir)
        clips = samples.shard_batches(Manifest.load(data.data_dir), data, 1, config.eval.eval_batch_size)
        test = distances(clips)
    paths = [one.path for pair in snapshot_pairs.values() for one in pair]
    return table(snapshot_pairs, {path: distances(generated(path)) for path in paths}, test)


def main(command: Command) -> int:
    implementations.require_torch()
    if not command.work_dir:
        with tempfile.TemporaryDirectory() as folder_of_both:
            return main(dataclasses.replace(command, work_dir=str(pathlib.Path(folder_of_both, "race"))))
    folder = pathlib.Path(command.work_dir)
    if folder.exists():
        raise UserError(f"--work_dir={folder} already exists; name a new folder")
    from tganv2_tf.evaluation.networks import load_c3d_network

    load_c3d_network(command.config.eval)  # report an invalid classifier before training
    folder.mkdir(parents=True)
    prepare(command.config, folder)
    processor_row = equal_time_comparison(command)
    report("benchmarks.speed.race", [*score(command, snapshots(command)), processor_row], command.output)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.speed.race", __doc__ or ""))
