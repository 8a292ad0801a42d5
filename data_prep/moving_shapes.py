"""Renders the synthetic data set: moving coloured shapes or thin glyphs, as .avi files in the layout of UCF101.

python -m data_prep.moving_shapes --output_dir=demo/moving_shapes
python -m data_prep.moving_shapes --content=glyphs --output_dir=demo/moving_glyphs

There are twelve classes of shapes, one per shape and direction, such as `CircleLeft`. Classes of glyphs are digits,
such as `Digit7`, and with more --num_classes letters, such as `LetterK`; glyphs move in any direction and bounce.
Colour, size, speed and the dark background vary. The output is laid out like an unpacked UCF101, as `data_prep.ucf101`
expects:

  OUTPUT/videos/CircleLeft/v_CircleLeft_g01_c01.avi ...
  OUTPUT/ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt
"""

from __future__ import annotations

import dataclasses
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

from data_prep import glyphs, shapes
from tganv2_tf import cli
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require
from tganv2_tf.storage.files import write_atomically

CONTENTS = {"shapes": shapes, "glyphs": glyphs}
DIGITS = len(glyphs.DIGITS)
FPS = 25.0
CLIPS_PER_GROUP = 4
MARKER = "moving_shapes.json"


@dataclasses.dataclass(frozen=True)
class MovingShapesOptions:
    """Videos to render."""

    output_dir: str = option("folder for the videos and their split lists")
    content: str = option(
        "moving objects: shapes of 12 classes, or glyphs, i.e. thin digits and letters", "shapes", tuple(CONTENTS)
    )
    num_classes: int = option(
        f"classes of glyphs, up to {len(glyphs.CLASSES)}: the ten digits, then letters; 0 = the digits", 0
    )
    videos_per_class: int = option("videos per class", 40)
    test_fraction: float = option("fraction of the groups in the test list", 0.2)
    num_frames: int = option("frames per video", 32)
    height: int = option("height of the frames in pixels", 72)
    width: int = option("width of the frames in pixels", 96)
    seed: int = option("seed of colours, sizes, speeds and backgrounds", 0)

    def __post_init__(self) -> None:
        require(bool(self.output_dir), "output_dir", self.output_dir, "the folder to create")
        most = len(glyphs.CLASSES) if self.content == "glyphs" else 0
        valid = f"0, or 2 to {most}" if most else "0 with --content=shapes, which always has 12 classes"
        require(self.num_classes == 0 or 2 <= self.num_classes <= most, "num_classes", self.num_classes, valid)
        require(self.videos_per_class >= 1, "videos_per_class", self.videos_per_class, "a whole number of at least 1")
        require(0 <= self.test_fraction < 1, "test_fraction", self.test_fraction, "at least 0 and below 1")
        require(self.num_frames >= 2, "num_frames", self.num_frames, "a whole number of at least 2")
        for name in ("height", "width"):
            require(16 <= getattr(self, name) <= 4096, name, getattr(self, name), "16 to 4096")
        require(self.seed >= 0, "seed", self.seed, "a whole number of at least 0")


def classes(options: MovingShapesOptions) -> tuple[str, ...]:
    """Returns the class names, ordered by class number."""
    if options.content == "shapes":
        return shapes.CLASSES
    return glyphs.CLASSES[: options.num_classes or DIGITS]


def render(class_name: str, group: int, clip: int, options: MovingShapesOptions) -> np.ndarray:
    """Renders one video; the same arguments give the same pixels.

    Args:
      class_name: One of `classes`.
      group: Group number from 1. Videos of a group and class share their hue and kind of background.
      clip: Number within the group, from 1.
      options: Content, sizes and seed.
    Returns:
      uint8 [num_frames, height, width, 3], RGB.
    """
    how = {name: getattr(options, name) for name in ("num_frames", "height", "width", "seed")}
    return CONTENTS[options.content].render(class_name, group, clip, **how)


def videos(options: MovingShapesOptions) -> Iterator[tuple[str, int, int]]:
    """Yields class, group and clip of every video, in UCF101's order."""
    for class_name in classes(options):
        for index in range(options.videos_per_class):
            yield class_name, index // CLIPS_PER_GROUP + 1, index % CLIPS_PER_GROUP + 1


def video_name(class_name: str, group: int, clip: int) -> str:
    """Returns the file name of a video, formed as in UCF101."""
    return f"v_{class_name}_g{group:02d}_c{clip:02d}.avi"


def split_lists(options: MovingShapesOptions) -> dict[str, str]:
    """Returns the split lists by file name, with CRLF as in UCF101; the first groups form the test list."""
    groups = -(-options.videos_per_class // CLIPS_PER_GROUP)
    test_groups = min(groups - 1, max(1, round(options.test_fraction * groups))) if options.test_fraction else 0
    labels = {class_name: number for number, class_name in enumerate(classes(options), start=1)}
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
    return {name: "".join(f"{line}\r\n" for line in rows) for name, rows in lines.items()}


def write_video(path: pathlib.Path, frames: np.ndarray) -> None:
    """Writes uint8 [T, H, W, 3] RGB as a Motion JPEG .avi file.

    Raises:
      UserError: The file cannot be written.
    """
    height, width = frames.shape[1:3]
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    # OpenCV's own encoder writes the same bytes with every version of FFmpeg.
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, fourcc, FPS, (width, height))
    try:
        if not writer.isOpened():
            raise UserError(f"{path}: cannot be written; is the folder writable, and the disk not full?")
        writer.set(cv2.VIDEOWRITER_PROP_QUALITY, 98)
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()
    # The writer does not report a full disk, but the file's header states its length.
    with open(path, "rb") as file:
        riff, size = file.read(4), int.from_bytes(file.read(4), "little")
    if riff != b"RIFF" or size + 8 != path.stat().st_size:
        raise UserError(f"{path}: not completely written; is the disk full?")


def main(options: MovingShapesOptions) -> int:
    """Renders all videos and their lists; does nothing if the folder already contains them."""
    target = pathlib.Path(options.output_dir)
    wanted = dataclasses.asdict(options)
    del wanted["output_dir"]
    wanted["num_classes"] = len(classes(options))
    if options.content == "shapes":  # data sets of older versions, which had no other content, do not record it
        del wanted["content"], wanted["num_classes"]
    count = len(list(videos(options)))
    if _is_complete(target, wanted, count):
        print(f"{target}: already complete, nothing to do")
        return 0
    if target.exists() and not (target / MARKER).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--output_dir={target}: already exists with other contents; choose a new or empty folder")
    target = target.resolve()
    # Everything is written next to the target and renamed at the end, so the target is never incomplete.
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
    print(f"{options.output_dir}: {count} videos of {len(classes(options))} classes")
    return 0


def _write_all(folder: pathlib.Path, options: MovingShapesOptions, wanted: dict[str, Any]) -> None:
    for class_name in classes(options):
        (folder / "videos" / class_name).mkdir(parents=True)
    everything = list(videos(options))
    interval = 0.5 if sys.stderr.isatty() else 30  # few lines in a log file
    for class_name, group, clip in tqdm.tqdm(everything, desc="moving_shapes", unit="video", mininterval=interval):
        path = folder / "videos" / class_name / video_name(class_name, group, clip)
        write_video(path, render(class_name, group, clip, options))
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    for name, text in split_lists(options).items():
        (lists / name).write_bytes(text.encode())
    write_atomically(folder / MARKER, json.dumps(wanted, indent=2) + "\n")


def _is_complete(folder: pathlib.Path, wanted: dict[str, Any], count: int) -> bool:
    try:
        made = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return made == wanted and sum(1 for _ in folder.glob("videos/*/*.avi")) == count


if __name__ == "__main__":
    sys.exit(cli.run(main, [MovingShapesOptions], "data_prep.moving_shapes", __doc__))
