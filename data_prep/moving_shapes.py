"""Renders the embedded data set: coloured shapes that move, as .avi files in the layout of UCF101.

python -m data_prep.moving_shapes --output_dir=demo/moving_shapes

A class is a shape and a direction, such as `CircleLeft`: twelve in all. The shape moves at a constant speed through the
middle of the frame; its colour, size and speed and the dark background vary. The output is what an unpacked UCF101 is,
so `data_prep.ucf101` takes it from there:

  OUTPUT/videos/CircleLeft/v_CircleLeft_g01_c01.avi ...
  OUTPUT/ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt
"""

from __future__ import annotations

import colorsys
import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tqdm

from tganv2_tf import cli_flags
from tganv2_tf.config import option, require
from tganv2_tf.errors import UserError
from tganv2_tf.files import write_atomically

# Corners in radii of the shape; the sizes look alike, so that only its outline tells a shape. A circle has no corners.
SHAPES = {
    "Circle": (),
    "Square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "Triangle": ((0.0, -1.2), (1.15, 0.8), (-1.15, 0.8)),
}
DIRECTIONS = {"Left": (-1, 0), "Right": (1, 0), "Up": (0, -1), "Down": (0, 1)}  # x to the right, y down
CLASSES = tuple(sorted(shape + direction for shape, direction in itertools.product(SHAPES, DIRECTIONS)))
HUES = (0.0, 0.12, 0.33, 0.5, 0.62, 0.85)  # red, yellow, green, cyan, blue, magenta
FPS = 25.0
CLIPS_PER_GROUP = 4
# Lengths are in sides of the centre square, the part that the geometry `paper` keeps.
RADIUS = (0.24, 0.32)
TRAVEL = (0.30, 0.42)  # within 16 frames
MAX_PATH = 0.87  # the centre of the shape stays inside the square
SIDEWAYS = 0.12
SUPERSAMPLING = 4
SUBPIXEL_BITS = 4
MARKER = "moving_shapes.json"


@dataclasses.dataclass(frozen=True)
class MovingShapesOptions:
    """Videos to render."""

    output_dir: str = option("folder for the videos and their split lists")
    videos_per_class: int = option("videos of each of the 12 classes", 40)
    test_fraction: float = option("share of the groups that goes to the test list", 0.2)
    num_frames: int = option("frames of a video", 32)
    height: int = option("of the frames, in pixels", 72)
    width: int = option("of the frames, in pixels", 96)
    seed: int = option("seed of colours, sizes, speeds and backgrounds", 0)

    def __post_init__(self) -> None:
        require(bool(self.output_dir), "output_dir", self.output_dir, "the folder to make")
        require(self.videos_per_class >= 1, "videos_per_class", self.videos_per_class, "a whole number of at least 1")
        require(0 <= self.test_fraction < 1, "test_fraction", self.test_fraction, "from 0 up to, not including, 1")
        require(self.num_frames >= 2, "num_frames", self.num_frames, "a whole number of at least 2")
        for name in ("height", "width"):
            require(16 <= getattr(self, name) <= 4096, name, getattr(self, name), "16 to 4096")
        require(self.seed >= 0, "seed", self.seed, "a whole number of at least 0")


def render(class_name: str, group: int, clip: int, options: MovingShapesOptions) -> np.ndarray:
    """Draws one video; the same arguments give the same pixels.

    Args:
      class_name: one of `CLASSES`.
      group: from 1; the videos of a group and class share the hue of their shape and the kind of their background.
      clip: from 1, in the group.
      options: sizes and seed.
    Returns:
      uint8 [num_frames, height, width, 3], RGB.
    """
    class_index = CLASSES.index(class_name)
    of_class = np.random.default_rng([options.seed, class_index])
    of_group = np.random.default_rng([options.seed, class_index, group])
    of_clip = np.random.default_rng([options.seed, class_index, group, clip])
    hue = of_class.permutation(HUES)[(group - 1) % len(HUES)]  # in turn, so that every class has every colour
    background_hue, horizontal, slope = of_group.uniform(), of_group.integers(2), of_group.integers(2) * 0.12

    colour = _rgb(hue + of_clip.uniform(-0.02, 0.02), of_clip.uniform(0.8, 1.0), of_clip.uniform(0.85, 1.0))
    dark = of_clip.uniform(0.08, 0.22)
    ramp = np.linspace(-0.5, 0.5, options.width if horizontal else options.height)
    values = np.clip(dark + slope * (ramp if horizontal else ramp[:, None]), 0, 1)
    tint = _rgb(background_hue, of_clip.uniform(0.1, 0.4), 1.0)
    background = np.broadcast_to(values[..., None], (options.height, options.width, 1)) * tint

    side = min(options.height, options.width)
    radius = of_clip.uniform(*RADIUS) * side
    speed = min(of_clip.uniform(*TRAVEL) / 15, MAX_PATH / (options.num_frames - 1)) * side  # pixels a frame
    sideways = of_clip.uniform(-SIDEWAYS, SIDEWAYS) * side
    shape, direction = _split_class(class_name)
    dx, dy = DIRECTIONS[direction]
    frames = np.empty((options.num_frames, options.height, options.width, 3), np.uint8)
    for t in range(options.num_frames):
        way = speed * (t - (options.num_frames - 1) / 2)  # the middle of the path is the middle of the frame
        centre = (options.width / 2 + way * dx + sideways * dy, options.height / 2 + way * dy + sideways * dx)
        coverage = _coverage(shape, centre, radius, options.height, options.width)[..., None]
        frames[t] = np.rint(255 * (coverage * colour + (1 - coverage) * background))
    return frames


def videos(options: MovingShapesOptions) -> Iterator[tuple[str, int, int]]:
    """Class, group and clip of every video, in UCF101's order."""
    for class_name in CLASSES:
        for index in range(options.videos_per_class):
            yield class_name, index // CLIPS_PER_GROUP + 1, index % CLIPS_PER_GROUP + 1


def video_name(class_name: str, group: int, clip: int) -> str:
    """File name as in UCF101."""
    return f"v_{class_name}_g{group:02d}_c{clip:02d}.avi"


def split_lists(options: MovingShapesOptions) -> dict[str, str]:
    """Texts of the split lists by file name, CRLF as in UCF101; whole groups, the first ones, are the test list's."""
    groups = -(-options.videos_per_class // CLIPS_PER_GROUP)
    test_groups = min(groups - 1, max(1, round(options.test_fraction * groups))) if options.test_fraction else 0
    labels = {class_name: number for number, class_name in enumerate(CLASSES, start=1)}
    train, test = [], []
    for class_name, group, clip in videos(options):
        path = f"{class_name}/{video_name(class_name, group, clip)}"
        if group <= test_groups:
            test.append(path)
        else:
            train.append(f"{path} {labels[class_name]}")
    lines = {
        "classInd.txt": [f"{number} {class_name}" for class_name, number in labels.items()],
        "trainlist01.txt": train,
        "testlist01.txt": test,
    }
    return {name: "".join(f"{line}\r\n" for line in of_file) for name, of_file in lines.items()}


def write_video(path: pathlib.Path, frames: np.ndarray) -> None:
    """Writes uint8 [T, H, W, 3] RGB as a Motion JPEG .avi file.

    Raises:
      UserError: the file cannot be written.
    """
    height, width = frames.shape[1:3]
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    # OpenCV's own writer: the same bytes whatever FFmpeg is about.
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, fourcc, FPS, (width, height))
    try:
        if not writer.isOpened():
            raise UserError(f"{path}: cannot be written; is the folder writable, and the disk not full?")
        writer.set(cv2.VIDEOWRITER_PROP_QUALITY, 98)
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()
    # The writer says nothing of a full disk; but the header of the file states its length.
    with open(path, "rb") as file:
        riff, size = file.read(4), int.from_bytes(file.read(4), "little")
    if riff != b"RIFF" or size + 8 != path.stat().st_size:
        raise UserError(f"{path}: could not be written to its end; is the disk full?")


def main(options: MovingShapesOptions) -> int:
    """Renders all videos and their lists; a folder that holds them already is left as it is."""
    target = pathlib.Path(options.output_dir)
    wanted = dataclasses.asdict(options)
    del wanted["output_dir"]
    if _is_complete(target, wanted):
        print(f"{target}: complete already, nothing to do")
        return 0
    if target.exists() and not (target / MARKER).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--output_dir={target}: holds something else; name a new or an empty folder")
    target = target.resolve()
    # All is made beside the target and renamed at the end: the target is never half of a data set.
    unfinished = target.parent / f".{target.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_all(unfinished, options, wanted)
        if target.exists():
            shutil.rmtree(target)
        os.replace(unfinished, target)
    except OSError as error:
        what = error.strerror or error
        raise UserError(f"--output_dir={target}: {what}; is it writable, and the disk not full?") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    print(f"{options.output_dir}: {len(CLASSES) * options.videos_per_class} videos of {len(CLASSES)} classes")
    return 0


def _write_all(folder: pathlib.Path, options: MovingShapesOptions, wanted: dict[str, Any]) -> None:
    for class_name in CLASSES:
        (folder / "videos" / class_name).mkdir(parents=True)
    everything = list(videos(options))
    interval = 0.5 if sys.stderr.isatty() else 30  # not a line every moment in a log file
    for class_name, group, clip in tqdm.tqdm(everything, desc="moving_shapes", unit="video", mininterval=interval):
        path = folder / "videos" / class_name / video_name(class_name, group, clip)
        write_video(path, render(class_name, group, clip, options))
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    for name, text in split_lists(options).items():
        (lists / name).write_bytes(text.encode())
    write_atomically(folder / MARKER, json.dumps(wanted, indent=2) + "\n")


def _is_complete(folder: pathlib.Path, wanted: dict[str, Any]) -> bool:
    try:
        made = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return made == wanted and sum(1 for _ in folder.glob("videos/*/*.avi")) == len(CLASSES) * wanted["videos_per_class"]


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _split_class(class_name: str) -> tuple[str, str]:
    shape = next(shape for shape in SHAPES if class_name.startswith(shape))
    return shape, class_name[len(shape) :]


def _coverage(shape: str, centre: tuple[float, float], radius: float, height: int, width: int) -> np.ndarray:
    """How much of each pixel the shape covers: float [height, width] in [0, 1]; `centre` is (x, y) from the corner."""
    mask = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)

    def fixed_point(value: float) -> int:
        return round(value * SUPERSAMPLING * 2**SUBPIXEL_BITS)

    # OpenCV counts from the middle of the first pixel, half a (fine) pixel from the corner.
    half = 2 ** (SUBPIXEL_BITS - 1)
    x, y = (fixed_point(value) - half for value in centre)
    if shape == "Circle":
        cv2.circle(mask, (x, y), fixed_point(radius), (255,), cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)
    else:
        corners = [[x + fixed_point(u * radius), y + fixed_point(v * radius)] for u, v in SHAPES[shape]]
        cv2.fillConvexPoly(mask, np.array(corners, np.int32), (255,), cv2.LINE_AA, SUBPIXEL_BITS)
    shrunk: np.ndarray = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    return shrunk.astype(np.float64) / 255


if __name__ == "__main__":
    sys.exit(cli_flags.run(main, [MovingShapesOptions], "data_prep.moving_shapes", __doc__))
