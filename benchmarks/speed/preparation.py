"""Speed of video preparation and size of the result, compared with a straightforward script.

python -m benchmarks.speed.preparation
python -m benchmarks.speed.preparation --video_dir=ucf101/videos --resolution=192 --output=preparation.json

The script (`benchmarks/speed/plain_preparation.py`) decodes with imageio, resizes with OpenCV, and stores raw uint8 in
HDF5. Both are run as commands, in turns, with the same number of workers; start-up is included in their times.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

from benchmarks.speed.contest import run_seconds
from benchmarks.speed.rows import Row, compared, report
from tganv2_tf import cli
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require

MEASURED_VIDEOS = 16
MAX_DIFFERENCE = 4.0  # mean, in grey levels: versions of FFmpeg may round differently when converting YUV to RGB
MAX_LENGTH_DIFFERENCE = 2  # imageio repeats frames where time stamps have gaps


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    video_dir: str = option("folder of UCF101 videos; none = the synthetic data set", "")
    videos: int = option("videos to prepare; those of the folder are repeated under other names", 128)
    resolution: int = option("height and width of the frames, in pixels", 192)
    jpeg_quality: int = option("quality of our JPEG frames", 92)
    num_workers: tuple[int, ...] = option("numbers of worker processes to compare", (1, 2))
    rounds: int = option("number of measurements", 3)
    output: str = option("also write the table to this JSON file", "", destination="file")

    def __post_init__(self) -> None:
        for name in ("videos", "resolution", "rounds"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        valid = bool(self.num_workers) and min(self.num_workers) >= 1
        require(valid, "num_workers", self.num_workers, "whole numbers of at least 1")


def link_videos(source: pathlib.Path, folder: pathlib.Path, count: int) -> None:
    """Fills a folder with links to the UCF101 videos of another, each with a unique name."""
    from data_prep.ucf101 import find_videos

    paths = sorted(find_videos(source).values())
    for number in range(count):
        path = paths[number % len(paths)]
        name = pathlib.Path(path).name.rpartition("_g")[0]
        (folder / f"{name}_g{number // 100:02d}_c{number % 100:02d}.avi").symlink_to(os.path.abspath(path))


def prepared_frames(folder: pathlib.Path) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yields names and decoded frames, uint8 RGB, of the videos of a data set."""
    import tensorflow as tf

    from tganv2_tf.data.inspection import read_frames, read_record
    from tganv2_tf.data.manifest import Manifest

    manifest = Manifest.load(folder)
    for path in manifest.shard_paths(folder):
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            values = read_record(record)
            frames = read_frames(values["frames"], manifest.height, manifest.width)
            yield values["video_id"].decode(), [np.asarray(frame) for frame in frames]


def psnr(folder: pathlib.Path, videos: pathlib.Path, plain: pathlib.Path, resolution: int, count: int) -> float:
    """Returns the peak signal-to-noise ratio of the prepared frames of `count` videos, in dB.

    Raises:
      UserError: The plain script has another number of frames, or other pictures.
    """
    import h5py

    from tganv2_tf.video_io.decoding import open_video
    from tganv2_tf.video_io.geometry import fit

    errors: list[float] = []
    with h5py.File(plain) as file:
        for name, frames in itertools.islice(prepared_frames(folder), count):
            exact = [fit(frame, "paper", resolution) for frame in open_video(videos / f"{name}.avi").frames]
            theirs = file[name][:]
            first_differs = np.abs(exact[0].astype(float) - theirs[0]).mean() > MAX_DIFFERENCE
            if first_differs or abs(len(theirs) - len(frames)) > MAX_LENGTH_DIFFERENCE:
                raise UserError(f"{name}: the plain script decoded different frames")
            errors += [float(np.square(a.astype(float) - b).mean()) for a, b in zip(frames, exact)]
    return float(10 * np.log10(255**2 / np.mean(errors)))


def main(command: Command) -> int:
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        videos, data, plain = work / "videos", work / "data", work / "plain.h5"
        videos.mkdir()
        source = pathlib.Path(command.video_dir)
        if not command.video_dir:
            source = work / "moving_shapes"
            run_seconds("data_prep.moving_shapes", f"--output_dir={source}")
        link_videos(source, videos, command.videos)
        speeds: dict[int, tuple[list[float], list[float]]] = {workers: ([], []) for workers in command.num_workers}
        for _ in range(command.rounds):
            for workers, (ours, theirs) in speeds.items():
                shutil.rmtree(data, ignore_errors=True)
                plain.unlink(missing_ok=True)
                arguments = [f"--video_dir={videos}", "--split=all", f"--resolution={command.resolution}"]
                arguments += [f"--output_dir={data}", f"--num_workers={workers}"]
                arguments += [f"--jpeg_quality={command.jpeg_quality}"]
                ours.append(command.videos / run_seconds("data_prep.ucf101", *arguments))
                arguments = [str(videos), str(plain), str(command.resolution), str(workers)]
                theirs.append(command.videos / run_seconds("benchmarks.speed.plain_preparation", *arguments))
        for workers, (ours, theirs) in speeds.items():
            what = f"preparation, {workers} workers" if workers > 1 else "preparation, 1 worker"
            rows.append(compared(what, "videos/s", ours, theirs, less_is_better=False))
        first, *others = command.num_workers
        for workers in others:
            what = f"preparation, {workers} workers against {first}"
            rows.append(compared(what, "videos/s", speeds[workers][0], speeds[first][0], less_is_better=False))
        size, raw = (sum(file.stat().st_size for file in files) for files in (data.iterdir(), [plain]))
        rows.append(compared("size on disk, against raw uint8", "MiB", [size / 2**20], [raw / 2**20], True))
        distance = psnr(data, videos, plain, command.resolution, min(command.videos, MEASURED_VIDEOS))
        rows.append(Row(f"PSNR at --jpeg_quality={command.jpeg_quality}", "dB", distance))
    report("benchmarks.speed.preparation", rows, command.output)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.speed.preparation", __doc__))
