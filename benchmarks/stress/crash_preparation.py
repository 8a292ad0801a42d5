"""Kills a data preparation at random moments, resumes it each time, and compares the bytes of the result.

python -m benchmarks.stress.crash_preparation
python -m benchmarks.stress.crash_preparation --kills=100 --seed=1

The videos are those of data_prep.moving_shapes, the command is data_prep.ucf101. A kill comes at a random moment, right
after a shard has received its final name, or while the manifest is being written. It hits the whole process group, only
the main process, or one worker (the kernel does the latter two when memory runs out), mostly with SIGKILL. A power cut
is a kill after which some files of the unfinished preparation are truncated, empty, full of zeros or missing, including
files that had been synced. The folder of each finished preparation is compared with that of an uninterrupted one, file
by file, and another one is started. Linux only. The exit status is 1 if a guarantee was violated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from data_prep import moving_shapes
from tganv2_tf import cli
from tganv2_tf.data.manifest import MANIFEST_FILE, UNFINISHED_DIR, Manifest, checksum
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require

TARGETS = {"all processes": 8, "power cut": 8, "main process": 4, "a worker": 3, "main process, SIGTERM": 2}  # weights
MOMENTS = {"any": 5, "shard": 3, "end": 2}
DAMAGES = ("cut off", "emptied", "zeroed", "lost")
END_SECONDS = 0.03  # duration of the last steps
SHARD_SECONDS = 0.01  # between the final name of a shard and its report
TIMEOUT = 300.0  # seconds for a preparation, and for processes to end
HEADER = """\
| kill | preparation | target | time | shards | damaged files |
|---|---|---|---|---|---|"""


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    kills: int = option("number of kills", 25)
    seed: int = option("seed of kill times and targets", 0)
    videos_per_class: int = option("videos of each of the 12 classes", 24)
    resolution: int = option("height and width of the frames in pixels", 192)
    num_workers: int = option("worker processes of the preparation", 2)
    work_dir: str = option("folder for all files; none = a temporary one", "")

    def __post_init__(self) -> None:
        for name in ("kills", "videos_per_class", "num_workers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        require(self.seed >= 0, "seed", self.seed, "a whole number of at least 0")


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Returns the checksums of all files in a folder, including hidden ones, by relative path."""
    return {str(path.relative_to(folder)): checksum(path) for path in folder.rglob("*") if path.is_file()}


def power_cut(folder: pathlib.Path, rng: random.Random) -> list[str]:
    """Damages up to three files of an unfinished preparation and returns how; [] if it is finished."""
    if (folder / MANIFEST_FILE).exists() or not folder.exists():
        return []
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    said = []
    for path in rng.sample(files, min(len(files), rng.randint(1, 3))):
        how, size = rng.choice(DAMAGES), path.stat().st_size
        if how == "cut off":
            os.truncate(path, rng.randrange(max(1, size)))
        elif how == "emptied":
            os.truncate(path, 0)
        elif how == "zeroed":
            path.write_bytes(bytes(size))
        else:
            path.unlink()
        said.append(f"{path.name} {how}")
    return said


class Attempt:
    """One start of the command, in a separate process group."""

    def __init__(self, command: list[str], folder: pathlib.Path) -> None:
        self.folder = folder
        self.begun = time.monotonic()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=self._errors, start_new_session=True
        )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.begun

    def num_shards(self) -> int:
        return len(list(self.folder.glob("*.tfrecord")))

    def writes_manifest(self) -> bool:
        return any(self.folder.glob(".manifest.*")) or (self.folder / MANIFEST_FILE).exists()

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Returns whether the condition became true before the command ended."""
        while not condition():
            if self.has_ended:
                return False
            if self.seconds > TIMEOUT:
                raise UserError(f"a preparation takes longer than {TIMEOUT:g} s: {self.folder}")
            time.sleep(0.001)
        return not self.has_ended

    def workers(self) -> list[int]:
        """Returns the process ids of the workers."""
        main = self._process.pid
        with contextlib.suppress(OSError):  # one has just ended
            children = pathlib.Path(f"/proc/{main}/task/{main}/children").read_text().split()
            lines = {int(pid): pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
            return [pid for pid, line in lines.items() if b"spawn_main" in line]
        return []

    def kill(self, what: str, rng: random.Random) -> None:
        pid = self._process.pid
        with contextlib.suppress(ProcessLookupError):
            if what in ("all processes", "power cut"):
                os.killpg(pid, signal.SIGKILL)
            elif what == "a worker":
                os.kill(rng.choice(self.workers()), signal.SIGKILL)
            else:
                self._process.send_signal(signal.SIGTERM if "SIGTERM" in what else signal.SIGKILL)

    def end(self) -> list[str]:
        """Waits for the end; returns faults: a bad exit status, a traceback, workers that outlive it."""
        faults = []
        status = self._process.wait(TIMEOUT)
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        self._errors.close()
        if status not in (0, 130, -signal.SIGKILL, -signal.SIGTERM) or "Traceback" in said:
            faults.append(f"status {status}: {' / '.join(said.splitlines()[-3:])}")
        deadline = time.monotonic() + 10
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.killpg(self._process.pid, 0)
                if time.monotonic() > deadline:
                    os.killpg(self._process.pid, signal.SIGKILL)
                    faults.append("workers still ran 10 s after the main process ended")
                    break
                time.sleep(0.01)
        return faults


class Crashes:
    """Runs preparations one after the other, until enough kills were made.

    Attributes:
      faults: Descriptions of violated guarantees.
    """

    def __init__(self, command: Command, folder: pathlib.Path) -> None:
        self.faults: list[str] = []
        self._command, self._folder, self._rng = command, folder, random.Random(command.seed)
        shapes = folder / "shapes"
        moving_shapes.main(moving_shapes.MovingShapesOptions(str(shapes), videos_per_class=command.videos_per_class))
        self._arguments = [sys.executable, "-m", "data_prep.ucf101", f"--video_dir={shapes / 'videos'}", "--split=all"]
        self._arguments += [f"--resolution={command.resolution}", "--encoding=png", "--shard_mib=1"]
        self._arguments += [f"--num_workers={command.num_workers}"]
        whole = self._start("uninterrupted")
        whole.wait_for(lambda: False)
        self.seconds = whole.seconds
        self.faults += whole.end()
        self._expected = contents(whole.folder)
        self._num_shards = Manifest.load(whole.folder).num_shards

    def _start(self, name: str) -> Attempt:
        folder = self._folder / name
        return Attempt([*self._arguments, f"--output_dir={folder}"], folder)

    def rows(self) -> Iterator[str]:
        """Kills until there are enough kills; yields one row of the table per kill."""
        kill = preparation = 0
        while kill < self._command.kills:
            preparation += 1
            name, finished = f"killed-{preparation}", False
            while not finished:
                attempt = self._start(name)
                what = _choice(self._rng, TARGETS)
                if kill == self._command.kills:
                    attempt.wait_for(lambda: False)
                elif self._wait_for_moment(attempt, what):
                    kill += 1
                    then = f"{attempt.seconds:.2f} s", f"{attempt.num_shards()} of {self._num_shards}"
                    attempt.kill(what, self._rng)
                    if what == "a worker":
                        attempt.wait_for(lambda: False)
                    faults = attempt.end()
                    damage = power_cut(attempt.folder, self._rng) if what == "power cut" else []
                    self.faults += [f"kill {kill}: {fault}" for fault in faults]
                    yield _row(kill, preparation, what, *then, ", ".join(damage))
                    finished = self._is_finished(attempt)
                    continue
                self.faults += [f"preparation {preparation}: {fault}" for fault in attempt.end()]
                finished = True
                if not self._is_finished(attempt):
                    self.faults.append(f"preparation {preparation}: not finished")
            self._compare(preparation, self._folder / name)

    def _wait_for_moment(self, attempt: Attempt, what: str) -> bool:
        """Returns whether the moment came before the command ended."""
        moment = _choice(self._rng, MOMENTS)
        if what == "a worker":
            after = self._rng.uniform(0, self.seconds)
            return attempt.wait_for(lambda: bool(attempt.workers()) and attempt.seconds > after)
        if moment == "shard":
            shards = attempt.num_shards() + self._rng.randint(1, 4)
            came = attempt.wait_for(lambda: attempt.num_shards() >= shards)
            time.sleep(self._rng.uniform(0, SHARD_SECONDS))
        elif moment == "end":
            attempt.wait_for(lambda: not any(attempt.folder.glob(".manifest.*")))  # left by the previous attempt
            came = attempt.wait_for(attempt.writes_manifest)
            time.sleep(self._rng.uniform(0, END_SECONDS))
        else:
            after = self._rng.uniform(0, self.seconds)
            came = attempt.wait_for(lambda: attempt.seconds > after)
        return came and not attempt.has_ended

    def _is_finished(self, attempt: Attempt) -> bool:
        return (attempt.folder / MANIFEST_FILE).exists() and not (attempt.folder / UNFINISHED_DIR).exists()

    def _compare(self, preparation: int, folder: pathlib.Path) -> None:
        found = contents(folder)
        names = [name for name in {**found, **self._expected} if found.get(name) != self._expected.get(name)]
        if names:
            self.faults.append(
                f"preparation {preparation}: files differ from the uninterrupted one: {', '.join(sorted(names))}"
            )
        else:
            shutil.rmtree(folder)


def _choice(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main(command: Command) -> int:
    """Prints one row per kill, and a summary."""
    with contextlib.ExitStack() as stack:
        work_dir = command.work_dir or stack.enter_context(tempfile.TemporaryDirectory())
        folder = pathlib.Path(work_dir)
        folder.mkdir(parents=True, exist_ok=True)
        crashes = Crashes(command, folder)
        print(HEADER)
        for row in tqdm(crashes.rows(), total=command.kills, unit="kill", disable=not sys.stderr.isatty()):
            tqdm.write(row)
    for fault in crashes.faults:
        print(fault)
    verdict = f"{len(crashes.faults)} faults" if crashes.faults else "all results have the same bytes"
    print(f"{command.kills} kills; an uninterrupted preparation takes {crashes.seconds:.1f} s; {verdict}")
    return 1 if crashes.faults else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.stress.crash_preparation", __doc__))
