"""Kills training at random moments, resumes it each time, and compares the final weights with an uninterrupted run.

python -m benchmarks.stress.crash --work_dir=/tmp/crash
python -m benchmarks.stress.crash --work_dir=/tmp/crash --kills=5 --configurations=plain,conditional

Trains tiny networks on synthetic data with the real command. Each configuration has an undisturbed run and one that is
killed (SIGKILL; every fifth time SIGTERM) during its steps, while it writes a checkpoint, renders previews or is being
scored. Between some restarts a power failure is simulated: the event files, which are never synced, are truncated, and
sometimes the newest checkpoint is truncated or has a bit flipped. At the end all tensors of the last checkpoints of
both runs must be bit-identical. The exit status is 1 if one is not.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

from tganv2_tf import cli
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require

TINY = shlex.split(
    "--resolution=32 --num_frames=16 --z_dim=8 --frame_strides=4 --batch_strides=2 --lstm_channels=8 "
    "--up_channels=8,8,8,8 --discriminator_channels=8,8 --global_batch_size=8 --shuffle_buffer=20 --log_every_steps=10 "
    "--preview_every_steps=20 --num_previews=2 --checkpoint_every_steps=10 --eval_every_steps=40 --num_samples=16 "
    "--repetitions=1 --real_passes=1 --deterministic"
)
CONFIGURATIONS = {
    "plain": [],
    "two_replicas": [],
    "n_dis": ["--n_dis=2", "--r1_every_steps=2"],
    "conditional": ["--conditional", "--diffaugment=color,translation", "--windows_per_record=2"],
}
# Uses a CPU as two devices; there is no flag for this.
TWO_REPLICAS = """
import runpy, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.argv = ["tganv2_tf.train", *sys.argv[1:]]
runpy.run_module("tganv2_tf.train", run_name="__main__", alter_sys=True)
"""
MOMENTS = ("steps", "checkpoint", "previews", "evaluation")
# Time after its first step in which a process must reach its moment; it is killed anyway afterwards.
MAX_SECONDS_TO_KILL = 60


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    work_dir: str = option("new or empty folder for data and runs")
    kills: int = option("total number of kills, divided among the configurations", 25)
    configurations: str = option("comma-separated configurations", ",".join(CONFIGURATIONS))
    train_steps: int = option("steps of each run", 400)
    seed: int = option("seed of kill times and damage", 0)

    def __post_init__(self) -> None:
        for name in ("kills", "train_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        known = set(self.configurations.split(",")) <= set(CONFIGURATIONS)
        require(known, "configurations", self.configurations, f"some of {','.join(CONFIGURATIONS)}")


@dataclasses.dataclass
class KilledProcess:
    """One process of a run: how it ended, and what was damaged afterwards."""

    moment: str
    signal: str
    step: int
    damage: str = ""
    resumed_at: int = 0
    said_so: bool = True


class Run:
    """A run in its folder, with the command that trains it."""

    def __init__(self, folder: pathlib.Path, data: pathlib.Path, configuration: str, train_steps: int) -> None:
        self.folder, self.log = folder, folder.with_suffix(".log")
        train = ["-c", TWO_REPLICAS] if configuration == "two_replicas" else ["-m", "tganv2_tf.train"]
        where = [f"--data_dir={data}/shards", f"--model_dir={folder}", f"--classifier={data}/classifier.npz"]
        where += [f"--cache_dir={data}/cache", f"--train_steps={train_steps}"]
        self.command = [sys.executable, *train, *TINY, *CONFIGURATIONS[configuration], *where]

    def start(self) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            return subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)

    def checkpoints(self) -> list[pathlib.Path]:
        """Index files, newest last."""
        files = self.folder.glob("checkpoints/ckpt-*.index")
        return sorted(files, key=lambda file: int(file.stem.partition("-")[2]))

    def step(self) -> int:
        files = self.checkpoints()
        return int(files[-1].stem.partition("-")[2]) if files else 0

    def events(self) -> int:
        """Returns the total size of all event files in bytes."""
        return sum(file.stat().st_size for file in self.folder.glob("events/*tfevents*"))

    def is_saving(self) -> bool:
        """Returns whether a checkpoint is being written: its data files exist, but not its index."""
        try:
            names = set(os.listdir(self.folder / "checkpoints"))
        except FileNotFoundError:
            return False
        begun = {re.split(r"[._]", name)[0] for name in names if name.startswith("ckpt-")}
        return any(f"{name}.index" not in names for name in begun)

    def is_being_scored(self) -> bool:
        """Returns whether the newest checkpoint is to be scored and has no report yet."""
        step = self.step()
        return step > 0 and step % 40 == 0 and not any(self.folder.glob(f"evaluations/step-{step}-*"))


def prepare(folder: pathlib.Path) -> None:
    """Prepares synthetic videos, their shards and a classifier."""
    python = [sys.executable, "-m"]
    shapes = ["data_prep.moving_shapes", f"--output_dir={folder}/shapes", "--videos_per_class=2"]
    lists = [f"--video_dir={folder}/shapes/videos", f"--split_dir={folder}/shapes/ucfTrainTestlist", "--split=all"]
    shards = ["data_prep.ucf101", *lists, f"--output_dir={folder}/shards", "--resolution=32", "--shard_mib=1"]
    classifier = ["tganv2_tf.train_classifier", f"--output={folder}/classifier.npz", "--steps=20", "--batch_size=8"]
    classifier += [f"--data_dir={folder}/shards", f"--test_data_dir={folder}/shards"]
    for command in (shapes, shards, classifier):
        done = subprocess.run([*python, *command], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{command[0]}: {done.stderr.strip().splitlines()[-1]}")


def wait_for(process: subprocess.Popen[bytes], condition: Callable[[], bool], seconds: float) -> bool:
    """Polls every millisecond; returns False if the process ends or the time is over."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.001)
    return False


def run_and_kill(run: Run, moment: str, number: signal.Signals, rng: random.Random) -> KilledProcess | None:
    """Starts the run and kills it at the moment; returns None if it finished before."""
    before, events = run.step(), run.events()
    process = run.start()
    wait_for(process, lambda: run.events() > events + 5000 or run.step() > before, 300)  # it is training
    if moment == "steps":
        wait_for(process, lambda: False, rng.uniform(0, 6))
    elif moment == "checkpoint":
        for _ in range(rng.randrange(4)):
            wait_for(process, run.is_saving, MAX_SECONDS_TO_KILL)
            wait_for(process, lambda: not run.is_saving(), MAX_SECONDS_TO_KILL)
        wait_for(process, run.is_saving, MAX_SECONDS_TO_KILL)
        time.sleep(rng.uniform(0, 0.01))
    elif moment == "previews":  # they are rendered after the scalars have been flushed
        size = run.events()
        wait_for(process, lambda: run.events() > size, MAX_SECONDS_TO_KILL)
        time.sleep(rng.uniform(0, 0.05))
    else:
        wait_for(process, run.is_being_scored, MAX_SECONDS_TO_KILL)
        time.sleep(rng.uniform(0, 0.5))
    if process.poll() is not None:
        return None
    seen = "checkpoint" if run.is_saving() else "evaluation" if run.is_being_scored() else moment
    seen = "steps" if seen != moment and moment in ("checkpoint", "evaluation") else seen
    os.killpg(process.pid, number)
    process.wait()
    return KilledProcess(seen, number.name, run.step())


def cut(file: pathlib.Path, rng: random.Random) -> None:
    """Truncates a file, as if its end had not been written when the power failed."""
    os.truncate(file, rng.randrange(file.stat().st_size))


def flip(file: pathlib.Path, rng: random.Random) -> None:
    """Flips one bit."""
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def damage(run: Run, rng: random.Random) -> str:
    """Damages the files of a run like a power failure or a bad disk; returns a description."""
    for file in run.folder.glob("events/*tfevents*"):
        if rng.random() < 0.5 and file.stat().st_size:
            cut(file, rng)
    kinds = {"cut": cut, "flipped": flip}
    kind = rng.choice(["", *kinds])
    files = run.checkpoints()
    if not kind or len(files) < 2:
        return ""
    newest = files[-1]
    chosen = rng.choice([newest, newest.with_suffix(".data-00000-of-00001")])
    if not chosen.stat().st_size:  # was being written
        return ""
    kinds[kind](chosen, rng)
    return f"{kind} {chosen.name}"


def differing(first: pathlib.Path, second: pathlib.Path) -> list[str]:
    """Returns the names of the tensors that are not bit-identical in two checkpoints."""
    import tensorflow as tf

    readers = [tf.train.load_checkpoint(os.fspath(file.with_suffix(""))) for file in (first, second)]
    names = [set(reader.get_variable_to_shape_map()) for reader in readers]
    different = sorted(names[0] ^ names[1])
    for name in sorted(names[0] & names[1]):
        values = [np.asarray(reader.get_tensor(name)) for reader in readers]
        if values[0].tobytes() != values[1].tobytes():
            different.append(name)
    return different


def kill_repeatedly(run: Run, kills: int, rng: random.Random) -> Iterator[KilledProcess]:
    """Kills the run `kills` times, or fewer if it ends before."""
    for number in range(kills):
        moment = MOMENTS[number % len(MOMENTS)]
        told = len(run.log.read_text().splitlines()) if run.log.exists() else 0
        kill = run_and_kill(run, moment, signal.SIGTERM if number % 5 == 4 else signal.SIGKILL, rng)
        if kill is None:
            return
        kill.damage = damage(run, rng) if number % 2 else ""
        said = run.log.read_text(errors="replace").splitlines()[told:]
        resumed = [line for line in said if "Resuming from step" in line]
        kill.resumed_at = int(resumed[0].rpartition("step ")[2].rstrip(".")) if resumed else 0
        yield kill


def finish(run: Run) -> None:
    """Runs the training to its end. Raises UserError if it fails."""
    process = run.start()
    if process.wait():
        raise UserError(f"{run.folder}: training failed: {run.log.read_text().splitlines()[-1]}")


def main(command: Command) -> int:
    folder = pathlib.Path(command.work_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"--work_dir={folder} is not empty; name a new folder")
    prepare(folder)
    rng = random.Random(command.seed)
    names = command.configurations.split(",")
    count = len(names)
    shares = [command.kills // count + (i < command.kills % count) for i in range(count)]
    faults = 0
    print(f"{'run':<14}{'killed in':<12}{'signal':<9}{'resumed':>9}{'saved':>7}  damaged afterwards")
    with tqdm(total=command.kills + 2 * count, unit="process") as bar:
        for name, kills in zip(names, shares):
            runs = [Run(folder / f"{name}-{kind}", folder, name, command.train_steps) for kind in ("whole", "killed")]
            whole, killed = runs
            finish(whole)
            bar.update()
            for kill in kill_repeatedly(killed, kills, rng):
                bar.update()
                tqdm.write(
                    f"{name:<14}{kill.moment:<12}{kill.signal:<9}{kill.resumed_at:>9}{kill.step:>7}  {kill.damage}"
                )
            finish(killed)
            bar.update()
            damaged = killed.log.read_text(errors="replace").count("falls back to the previous checkpoint")
            different = differing(whole.checkpoints()[-1], killed.checkpoints()[-1])
            faults += bool(different)
            verdict = (
                f"{len(different)} tensors DIFFER, {different[0]}" if different else "all tensors are bit-identical"
            )
            tqdm.write(f"{name}: {verdict}; {damaged} damaged checkpoints were detected and skipped")
    print(f"{faults} of {count} runs differ" if faults else "all weights equal those of the uninterrupted runs")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.stress.crash", __doc__ or ""))
