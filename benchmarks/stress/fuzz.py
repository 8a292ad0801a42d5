"""Feeds mutated videos, shards and manifests to the preparation and the readers: each must work or be reported.

python -m benchmarks.stress.fuzz
python -m benchmarks.stress.fuzz --mutations=20000 --videos=UCF-101 --seed=1

Mutations change bits and header fields, delete, repeat or zero ranges, and truncate files.

- videos: all are prepared by one data_prep.video_folder. Each must be in the shards or be listed with a reason, and
  data_prep.verify, which decodes every frame, must accept the shards. A video may crash its worker process or exceed
  the time limit; it is then listed.
- shards: data_prep.verify must find each fault. Training must yield the batches of the intact data set until it stops
  with one line that names file and record. With --skip_corrupt_records it must yield clips of the intact records only
  and log each skipped record. "Resealed" records were changed before they were written, so their checksums are right:
  they may be decoded.
- manifests: data_prep.verify and training must reject them in one line, or succeed.
- a video of ten hours must need no more memory than one of ten minutes.

Anything else is counted as wrong; the exit status is then 1.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import io
import json
import logging
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from tqdm import tqdm

from data_prep import moving_shapes, verify
from data_prep.workers import num_processors, run_supervised
from tganv2_tf import cli
from tganv2_tf.config import DataConfig, ModelConfig
from tganv2_tf.data.inspection import read_frames, read_record, read_shard
from tganv2_tf.data.manifest import MANIFEST_FILE, Manifest
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require
from tganv2_tf.video_io.folders import find_videos

if TYPE_CHECKING:  # TensorFlow is imported on use, after the flags have been validated
    import tensorflow as tf

SHARES = {"videos": 0.8, "shards": 0.12}  # of the mutations; the rest are of manifests
NUM_FRAMES, RESOLUTION = 20, 32
CLIP_FRAMES, BATCH_SIZE, EPOCHS = 4, 16, 3
RESEALED_GROUPS = 4  # every n-th group of shards is resealed
MANIFESTS_PER_TASK = 10
VIDEO_TIMEOUT, STEP_TIMEOUT, PREPARATION_TIMEOUT = 20.0, 120.0, 3000.0  # seconds
ODD_VALUES: tuple[Any, ...] = (
    0,
    1,
    -1,
    10**30,
    1.5,
    "",
    "a",
    "a\0b",
    "\ud800",
    "a\nb",
    "../a",
    "/dev/zero",
    None,
    True,
    [],
    {},
    [[]],
)
# Containers and codecs to which ffmpeg converts one of the videos.
CONVERSIONS = {
    "h264.mp4": ["-c:v", "libx264", "-pix_fmt", "yuv420p"],
    "h264.mkv": ["-c:v", "libx264"],
    "vp9.webm": ["-c:v", "libvpx-vp9"],
    "mpeg4.avi": ["-c:v", "mpeg4"],
    "mpeg1.mpg": ["-c:v", "mpeg1video"],
    "mpeg2.ts": ["-c:v", "mpeg2video"],
    "png.mov": ["-c:v", "png", "-pix_fmt", "rgba"],
    "wmv2.wmv": ["-c:v", "wmv2"],
    "flv.flv": ["-c:v", "flv"],
    "gif.gif": [],
}
HEADER = """\
| files | mutations | readable | reported | of these with a lost worker | wrong |
|---|---|---|---|---|---|"""


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    mutations: int = option("number of mutations: 80 % of videos, 12 % of shards, 8 % of manifests", 2000)
    seed: int = option("seed of the mutations", 0)
    videos: str = option("folder of videos to mutate; none = moving shapes in several formats", "")
    num_workers: int = option("worker processes; 0 = one per processor", 0)
    work_dir: str = option("folder for all files; none = a temporary one", "")
    long_video: bool = option("also prepare a video of ten hours", True)

    def __post_init__(self) -> None:
        require(self.mutations >= 10, "mutations", self.mutations, "a whole number of at least 10")
        for name in ("seed", "num_workers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a whole number of at least 0")


@dataclasses.dataclass
class Counts:
    """Outcomes of the mutations of one kind of file."""

    readable: int = 0
    reported: int = 0
    lost_workers: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)

    def row(self, what: str) -> str:
        mutations = self.readable + self.reported + len(self.wrong)
        cells = (what, mutations, self.readable, self.reported, self.lost_workers, len(self.wrong))
        return f"| {' | '.join(map(str, cells))} |"


# Mutations.


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Returns the content changed by one of `MUTATIONS`; never the same content."""
    while True:
        data = bytearray(content)
        MUTATIONS[rng.choice(list(MUTATIONS))](data, rng)
        if data != content:
            return bytes(data)


def _bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 4, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _truncated(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _grown(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(rng.randint(1, 100))


def _deleted(data: bytearray, rng: random.Random) -> None:
    del data[_range(data, rng)]


def _repeated(data: bytearray, rng: random.Random) -> None:
    chosen = _range(data, rng)
    data[chosen.stop : chosen.stop] = data[chosen]


def _zeroed(data: bytearray, rng: random.Random) -> None:
    chosen = _range(data, rng)
    data[chosen] = bytes(chosen.stop - chosen.start)


def _header(data: bytearray, rng: random.Random) -> None:
    """Overwrites some of the first bytes by an extreme number of one to eight bytes, in either byte order."""
    for _ in range(rng.randint(1, 3)):
        size = rng.choice((1, 2, 4, 8))
        number = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1))
        start = rng.randrange(min(len(data), 1024))
        data[start : start + size] = number.to_bytes(size, rng.choice(("big", "little")))


def _range(data: bytearray, rng: random.Random) -> slice:
    start = rng.randrange(len(data))
    return slice(start, min(len(data), start + rng.randint(1, max(1, len(data) // 8))))


def _other_value(content: bytes, rng: random.Random) -> bytes:
    """Replaces or deletes one value of a JSON document."""
    loaded = json.loads(content)
    holder, key = loaded, rng.choice(list(loaded))
    while isinstance(holder[key], (dict, list)) and holder[key] and rng.random() < 0.8:
        holder = holder[key]
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    if rng.randrange(8):
        holder[key] = rng.choice(ODD_VALUES)
    else:
        del holder[key]
    return json.dumps(loaded).encode()


MUTATIONS: dict[str, Callable[[bytearray, random.Random], None]] = {
    "bits": _bits,
    "truncated": _truncated,
    "grown": _grown,
    "deleted": _deleted,
    "repeated": _repeated,
    "zeroed": _zeroed,
    "header": _header,
}


# Videos.


def make_videos(folder: pathlib.Path) -> pathlib.Path:
    """Renders moving shapes, 11 videos per class; returns their folder."""
    if not folder.exists():
        options = moving_shapes.MovingShapesOptions(
            str(folder), videos_per_class=11, num_frames=NUM_FRAMES, height=48, width=64
        )
        moving_shapes.main(options)
    return folder / "videos"


def _originals(command: Command, folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the videos to mutate."""
    if command.videos:
        return sorted(map(pathlib.Path, find_videos(command.videos, "--videos=").files))
    shapes = sorted(make_videos(folder / "shapes").rglob("*.avi"))[::50]
    (folder / "originals").mkdir(exist_ok=True)
    converted = []
    for name, options in CONVERSIONS.items():
        converted.append(folder / "originals" / name)
        _ffmpeg(["-i", str(shapes[0]), *options], converted[-1])
    return [*shapes, *converted]


def _ffmpeg(arguments: list[str], output: pathlib.Path) -> None:
    subprocess.run([get_ffmpeg_exe(), "-v", "error", "-y", *arguments, str(output)], check=True)


@dataclasses.dataclass(frozen=True)
class Run:
    """A command that has ended: its exit status, its output, and the peak memory of its largest process in MiB."""

    status: int
    said: str
    mebibytes: float
    seconds: float


def _prepare(video_dir: pathlib.Path, output_dir: pathlib.Path, *more: str) -> Run:
    """Runs data_prep.video_folder. Raises subprocess.TimeoutExpired if it hangs."""
    arguments = [sys.executable, "-m", "data_prep.video_folder", f"--video_dir={video_dir}"]
    arguments += [f"--output_dir={output_dir}", f"--resolution={RESOLUTION}", f"--video_timeout={VIDEO_TIMEOUT}", *more]
    begun = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - begun > PREPARATION_TIMEOUT:
                process.kill()
                raise subprocess.TimeoutExpired(arguments, PREPARATION_TIMEOUT)
            time.sleep(0.05)
        process.returncode = os.waitstatus_to_exitcode(status)  # wait4() has reaped the process, so Popen cannot
        output.seek(0)
        said = output.read().decode(errors="replace")
    return Run(process.returncode, said, usage.ru_maxrss / 1024, time.monotonic() - begun)


def fuzz_videos(command: Command, folder: pathlib.Path, mutations: int) -> tuple[Counts, Run]:
    """Prepares mutated videos with one command."""
    originals, mutated, counts = _originals(command, folder), folder / "mutated", Counts()
    mutated.mkdir()
    contents = {path: path.read_bytes() for path in originals}
    for number in range(mutations):
        path, rng = originals[number % len(originals)], random.Random(f"{command.seed} video {number}")
        (mutated / f"{number:06d}{path.suffix}").write_bytes(mutate(contents[path], rng))
    ids = {path.name for path in mutated.iterdir()}
    data = folder / "prepared"
    more = ["--min_frames=4", "--max_record_frames=64", f"--max_failures={mutations}"]
    run = _prepare(mutated, data, *more, f"--num_workers={command.num_workers}")
    if run.status or "Traceback" in run.said:
        counts.wrong.append(f"data_prep.video_folder: status {run.status}: {run.said[-2000:]}")
        return counts, run
    manifest = Manifest.load(data)
    skipped = {skip.video: skip.reason for skip in manifest.skipped}
    with _silence() as said:
        verification = verify.Verification(manifest, verify.VerifyOptions(str(data), num_decoded=10**9))
    if verification.num_faults:
        counts.wrong += [line for line in said.getvalue().splitlines() if ": record " in line]
    in_shards = set(verification.videos)
    for video in sorted(ids):
        if (video in in_shards) == (video in skipped):
            counts.wrong.append(f"{video}: is in the shards and listed as skipped, or neither")
        elif video in in_shards:
            counts.readable += 1
        else:
            counts.reported += 1
            counts.lost_workers += "worker process" in skipped[video] or "took longer" in skipped[video]
    return counts, run


def long_video(folder: pathlib.Path) -> tuple[str, list[str]]:
    """Prepares a video of ten hours; returns a line of the report, and the faults."""
    peaks, wrong = [], []
    for name, seconds in (("minutes", 600), ("hours", 36_000)):
        videos = folder / name
        videos.mkdir()
        source = f"testsrc=size={RESOLUTION}x{RESOLUTION}:rate=1:duration={seconds}"
        _ffmpeg(["-f", "lavfi", "-i", source, "-c:v", "mpeg4"], videos / "long.mp4")
        run = _prepare(videos, folder / f"{name}-data", "--num_workers=1")
        found = 0 if run.status else Manifest.load(folder / f"{name}-data").num_videos
        if found != 1:
            wrong.append(f"ten {name}: {run.said[-500:]}")
        peaks.append(run)
    if peaks[1].mebibytes > 1.2 * peaks[0].mebibytes:
        wrong.append("a video of ten hours needs more memory than one of ten minutes")
    short, long = peaks
    line = f"Video of ten hours at 1 frame per second: {long.seconds:.0f} s, peak {long.mebibytes:.0f} MiB; "
    return line + f"ten minutes: peak {short.mebibytes:.0f} MiB", wrong


# Shards and manifests; everything below runs in workers.


@dataclasses.dataclass(frozen=True)
class Task:
    """Mutations for one worker.

    Attributes:
      data_dir: Folder of the intact data set.
      numbers: Numbers of the mutations; for shards, one per shard.
      manifests: Whether to mutate manifests instead of shards.
      seed: Seed of all mutations.
    """

    data_dir: str
    numbers: tuple[int, ...]
    manifests: bool
    seed: int


def check(task: Task, announce: Callable[[str | None], None]) -> Counts:
    """Mutates and reads files; called in a worker."""
    if not task.numbers:
        return Counts()
    with _silence():
        bench = Bench.of(task.data_dir)
        counts = (bench.check_manifests if task.manifests else bench.check_shards)(task, announce)
    announce(None)
    return counts


class Bench:
    """A copy of the intact data set for one worker, to be damaged."""

    def __init__(self, intact: str) -> None:
        self.intact = pathlib.Path(intact)
        self.folder = self.intact.with_name(f"{self.intact.name}-{os.getpid()}")
        shutil.copytree(self.intact, self.folder, dirs_exist_ok=True)
        self.manifest = Manifest.load(self.folder)
        self.owners: dict[bytes, tuple[str, int]] = {}  # clip -> file, record
        for shard in self.manifest.shards:
            for number, serialized in enumerate(read_shard(str(self.folder / shard.file))):
                frames = np.stack(list(read_frames(read_record(serialized)["frames"], RESOLUTION, RESOLUTION)))
                for start in range(len(frames) - CLIP_FRAMES + 1):
                    self.owners[frames[start : start + CLIP_FRAMES].tobytes()] = shard.file, number
        # One data set per shard, created only once: tf.data opens the files only when it is iterated.
        self.single_shards = [dataclasses.replace(self.manifest, shards=[shard]) for shard in self.manifest.shards]
        self.strict = [self._training(manifest, False) for manifest in self.single_shards]
        self.expected = [list(_clips(dataset)) for dataset in self.strict]

    @staticmethod
    @functools.cache
    def of(intact: str) -> Bench:
        return Bench(intact)

    def _config(self, skip: bool) -> tuple[ModelConfig, DataConfig]:
        model = ModelConfig(
            resolution=RESOLUTION, num_frames=CLIP_FRAMES, frame_strides=(), batch_strides=(), up_channels=(4, 4, 4)
        )
        return model, DataConfig(str(self.folder), flip=False, shuffle_buffer=8, skip_corrupt_records=skip)

    def _training(self, manifest: Manifest, skip: bool) -> tf.data.Dataset:
        """Returns the batches of several epochs of training."""
        from tganv2_tf.data.pipeline import training_dataset

        batches = -(-EPOCHS * manifest.num_records // BATCH_SIZE)
        return training_dataset(manifest, *self._config(skip), BATCH_SIZE, 1, 0).take(batches)

    def check_shards(self, task: Task, announce: Callable[[str | None], None]) -> Counts:
        """Damages every shard, each in a different way."""
        group = task.numbers[0] // len(self.manifest.shards)
        resealed = group % RESEALED_GROUPS == 0
        rngs = [random.Random(f"{task.seed} shard {number}") for number in task.numbers]
        damaged = list(zip(self.manifest.shards, self.single_shards, self.strict, self.expected))[: len(rngs)]
        for shard in self.manifest.shards:
            shutil.copy(self.intact / shard.file, self.folder / shard.file)
        for rng, (shard, *_) in zip(rngs, damaged):
            self._damage(self.folder / shard.file, resealed, rng)
        announce(f"shards {task.numbers}: data_prep.verify")
        with _silence() as said:
            refusal = _refusal(lambda: verify.main(verify.VerifyOptions(str(self.folder))))
        faults = collections.Counter(line.split(":")[0] for line in said.getvalue().splitlines())
        announce(f"shards {task.numbers}: training with --skip_corrupt_records")
        skipping = self._skipping(resealed)
        counts = Counts(wrong=[f"shards {task.numbers}: {refusal}"] if "\n" in refusal else [])
        for number, (shard, alone, strict, expected) in zip(task.numbers, damaged):
            announce(f"shard {number}: training")
            wrong = [
                "" if faults[shard.file] else "data_prep.verify does not report it",
                skipping[shard.file],
                self._strict(alone, strict, None if resealed else expected),
            ]
            counts.wrong += [f"shard {number}{' (resealed)' * resealed}: {fault}" for fault in wrong if fault]
            counts.reported += not any(wrong)
        return counts

    def _damage(self, path: pathlib.Path, resealed: bool, rng: random.Random) -> None:
        import tensorflow as tf

        if not resealed:
            path.write_bytes(mutate(path.read_bytes(), rng))
            return
        records = list(read_shard(str(path)))
        chosen = rng.randrange(len(records))
        records[chosen] = mutate(records[chosen], rng)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)

    def _strict(self, alone: Manifest, dataset: tf.data.Dataset, expected: list[bytes] | None) -> str:
        """Returns how training misreads one damaged shard, or ""; `expected` are its clips, if they must be intact."""
        import tensorflow as tf

        from tganv2_tf.data.damage import cause_of_error

        shard, read = alone.shards[0], 0
        try:
            for clip in _clips(dataset):
                if expected is not None and clip != expected[read]:
                    return f"training yields a different clip at {read}"
                read += 1
        except tf.errors.OpError as error:
            line = cause_of_error(error, alone, self._config(False)[1]) or ""
            named = line.startswith(f"{self.folder / shard.file}: record ") and "\n" not in line
            return "" if named else f"training stops with: {line or error.message}"
        if expected is not None and not shard.fault(self.folder):
            return "training does not detect the damage"
        return ""

    def _skipping(self, resealed: bool) -> dict[str, str]:
        """Returns, per shard, how training with --skip_corrupt_records fails to skip its damage, or ""."""
        from tganv2_tf.data.checks import load_manifest

        wrong = {shard.file: "" for shard in self.manifest.shards}
        seen: set[tuple[str, int]] = set()
        with _logged() as skipped:
            try:
                load_manifest(*self._config(True))
                for clip in _clips(self._training(self.manifest, True)):
                    owner = self.owners.get(clip)
                    if owner:
                        seen.add(owner)
                    elif not resealed:
                        return dict.fromkeys(wrong, "with --skip_corrupt_records training yields a clip of no record")
            except Exception as error:  # noqa: BLE001 (every exception is a fault)
                return dict.fromkeys(wrong, f"with --skip_corrupt_records training stops: {error!r}")
        for shard in self.manifest.shards:
            lost = {(shard.file, number) for number in range(shard.num_records)} - seen - skipped
            if lost and not resealed:  # a resealed record may be decoded to other clips
                wrong[shard.file] = (
                    f"with --skip_corrupt_records these records are missing and not logged: {sorted(lost)}"
                )
        return wrong

    def check_manifests(self, task: Task, announce: Callable[[str | None], None]) -> Counts:
        """Mutates the manifest of intact shards."""
        from tganv2_tf.data.checks import load_manifest

        counts, content = Counts(), (self.intact / MANIFEST_FILE).read_bytes()
        for shard in self.manifest.shards:
            shutil.copy(self.intact / shard.file, self.folder / shard.file)
        for number in task.numbers:
            announce(f"manifest {number}")
            rng = random.Random(f"{task.seed} manifest {number}")
            changed = (mutate, _other_value)[number % 2](content, rng)
            (self.folder / MANIFEST_FILE).write_bytes(changed)
            refusals = [
                _refusal(lambda: verify.main(verify.VerifyOptions(str(self.folder)))),
                _refusal(lambda: list(_clips(self._training(load_manifest(*self._config(False)), False)))),
            ]
            wrong = [refusal for refusal in refusals if "\n" in refusal]
            counts.wrong += [f"manifest {number}: {refusal}" for refusal in wrong]
            counts.reported += any(refusals) and not wrong
            counts.readable += not any(refusals)
        (self.folder / MANIFEST_FILE).write_bytes(content)
        return counts


def _refusal(read: Callable[[], Any]) -> str:
    """Returns the one-line error or the traceback with which `read` fails, or "" if it succeeds."""
    try:
        read()
    except UserError as error:
        return str(error)
    except Exception:  # noqa: BLE001 (every exception is a fault)
        return traceback.format_exc()
    return ""


def _clips(dataset: tf.data.Dataset) -> Iterator[bytes]:
    """Yields the clips of a training data set of one level, as the bytes of their uint8 frames."""
    for levels, *_ in dataset.as_numpy_iterator():
        yield from (clip.tobytes() for clip in np.rint((levels[0][0] + 1) * 127.5).astype(np.uint8))


@contextlib.contextmanager
def _silence() -> Iterator[io.StringIO]:
    """Captures printed output; progress is dropped."""
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(io.StringIO()):
        yield said


@contextlib.contextmanager
def _logged() -> Iterator[set[tuple[str, int]]]:
    """Collects files and numbers of the records that the log reports as skipped."""
    skipped: set[tuple[str, int]] = set()
    handler = logging.Handler()

    def emit(record: logging.LogRecord) -> None:
        if "; skipped. " in str(record.msg) and isinstance(record.args, tuple):
            skipped.add((os.path.basename(str(record.args[0])), int(str(record.args[1]))))

    handler.emit = emit  # type: ignore[method-assign]
    logger = logging.getLogger("absl")
    logger.addHandler(handler)
    try:
        yield skipped
    finally:
        logger.removeHandler(handler)


def fuzz_data_sets(command: Command, folder: pathlib.Path, shards: int, manifests: int) -> tuple[Counts, Counts]:
    """Checks mutated shards and mutated manifests in supervised workers."""
    data = folder / "intact"
    run = _prepare(make_videos(folder / "shapes"), data, f"--num_workers={command.num_workers}")
    if run.status:
        raise UserError(f"the intact data set cannot be prepared: {run.said[-2000:]}")
    size = Manifest.load(data).num_shards

    def tasks(count: int, at_once: int, mutate_manifests: bool) -> list[Task]:
        numbers = [tuple(range(first, min(count, first + at_once))) for first in range(0, count, at_once)]
        return [Task(str(data), chosen, mutate_manifests, command.seed) for chosen in numbers]

    totals = {False: Counts(), True: Counts()}
    with tqdm(total=shards + manifests, unit="file", desc="shards, manifests", disable=not sys.stderr.isatty()) as bar:

        def on_done(task: Task, counts: Counts) -> None:
            bar.update(len(task.numbers))
            total = totals[task.manifests]
            total.readable += counts.readable
            total.reported += counts.reported
            total.wrong += counts.wrong

        def on_lost(task: Task, item: Any, reason: str) -> Task:
            totals[task.manifests].wrong.append(f"{item}: {reason}")
            return dataclasses.replace(task, numbers=())

        run_supervised(
            check,
            tasks(shards, size, False) + tasks(manifests, MANIFESTS_PER_TASK, True),
            num_workers=command.num_workers or num_processors(),
            item_timeout=STEP_TIMEOUT,
            on_done=on_done,
            on_lost=on_lost,
        )
    return totals[False], totals[True]


def main(command: Command) -> int:
    """Prints one row per kind of file, and all faults."""
    videos, shards = (round(command.mutations * share) for share in SHARES.values())
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        work_dir = command.work_dir or stack.enter_context(tempfile.TemporaryDirectory())
        folder = pathlib.Path(work_dir)
        folder.mkdir(parents=True, exist_ok=True)
        counts: dict[str, Counts] = {}
        counts["videos"], run = fuzz_videos(command, folder, videos)
        remaining = command.mutations - videos - shards
        counts["shards"], counts["manifests"] = fuzz_data_sets(command, folder, shards, remaining)
        line, wrong = long_video(folder) if command.long_video else ("", [])
    print(HEADER)
    for what, count in counts.items():
        print(count.row(what))
        wrong += count.wrong
    print(f"Videos: {run.seconds:.0f} s; peak memory of the largest process {run.mebibytes:.0f} MiB. {line}".rstrip())
    for fault in wrong:
        print(f"WRONG: {fault}")
    print(f"{command.mutations} mutations, {time.monotonic() - begun:.0f} s: {len(wrong) or 'nothing'} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.stress.fuzz", __doc__))
