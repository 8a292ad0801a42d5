"""Prepares UCF101, or videos in its layout: converts videos and split lists to TFRecord shards with a manifest.

python -m data_prep.ucf101 --video_dir=UCF-101 --split_dir=ucfTrainTestlist --split=train --fold=1 \\
  --output_dir=data/ucf101/train

The archive may be unpacked flat or with one folder per class. File extensions are ignored, so videos may be in other
containers than the lists say, such as .mp4, .webm or .mkv. The split lists (`trainlist01.txt`, `classInd.txt`, ...) may
have CRLF or LF line ends, with or without a label column: the class is read from the file names. Without lists,
--split=all selects every video.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import re
import sys
from collections.abc import Iterable

from data_prep.data_set import DataSet
from data_prep.options import ShardingOptions, VideoDirOptions, recorded_fps
from data_prep.readers import read_resized
from data_prep.shard_writer import Video
from data_prep.sharding import prepare
from tganv2_tf import cli
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.options import option, require
from tganv2_tf.ray_cluster import RunnerOptions
from tganv2_tf.video_io.folders import EXTENSIONS, walk
from tganv2_tf.video_io.geometry import frame_size

NAME = re.compile(rf"(?P<id>v_(?P<class_name>[^/\\]+)_g\d+_c\d+)\.({EXTENSIONS})", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Ucf101Options(VideoDirOptions):
    """Videos and frames."""

    video_dir: str = option("folder of the videos, flat or one folder per class")
    split_dir: str = option("folder of the split lists (ucfTrainTestlist); optional with --split=all", "")
    split: str = option("split list of the videos; all = both lists", "train", ("train", "test", "all"))
    fold: int = option("number of the split lists: 1 = trainlist01.txt and testlist01.txt", 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.fold >= 1, "fold", self.fold, "1, 2 or 3")
        if not self.split_dir and self.split != "all":
            raise ConfigError(f"--split={self.split} needs the lists in --split_dir; without lists: --split=all")


def find_videos(folder: pathlib.Path) -> dict[str, str]:
    """Returns the paths of all UCF101 videos below a folder, by id (file name without extension) in lower case.

    Lists and archives in circulation differ in capitals (HandStandPushups, HandstandPushups).

    Raises:
      UserError: The folder does not exist, contains no videos, or contains two of the same name.
    """
    if not folder.is_dir():
        raise UserError(f"--video_dir={folder}: no such folder")
    found: dict[str, str] = {}
    for parent, names in walk(folder):
        for name in names:
            match = NAME.fullmatch(name)
            if match is None:
                continue
            key, path = match["id"].lower(), os.path.join(parent, name)
            if key in found:
                raise UserError(f"two videos have the same name, keep one of them: {found[key]} and {path}")
            found[key] = path
    if not found:
        raise UserError(f"--video_dir={folder}: no UCF101 videos (v_CLASS_g01_c01.avi) in it or below")
    return found


def read_list(path: pathlib.Path) -> list[str]:
    """Returns the ids in a split list, such as `v_Archery_g01_c02`, in its order.

    Raises:
      UserError: A line is not the name of a UCF101 video.
    """
    ids = []
    for number, line in enumerate(_lines(path), start=1):
        if not line:
            continue
        match = NAME.search(line.replace("\\", "/").rpartition("/")[2])
        if match is None:
            raise UserError(f"{path}, line {number}: no name of a UCF101 video in {line!r}")
        ids.append(match["id"])
    return ids


def class_name(video_id: str) -> str:
    """`v_Archery_g01_c02` -> `Archery`."""
    match = NAME.fullmatch(f"{video_id}.avi")
    assert match is not None, video_id
    return match["class_name"]


def class_labels(split_dir: pathlib.Path | None, names: Iterable[str]) -> list[str]:
    """Returns the class names, ordered by class number: those of classInd.txt, else `names` sorted.

    Raises:
      UserError: classInd.txt cannot be parsed, or lacks one of `names`.
    """
    path = split_dir / "classInd.txt" if split_dir else None
    if path is None or not path.exists():
        unique = {name.lower(): name for name in sorted(names, reverse=True)}
        return [unique[key] for key in sorted(unique)]
    rows = [line.split() for line in _lines(path) if line]
    numbers = [str(number) for number in range(1, len(rows) + 1)]
    if not rows or any(len(row) != 2 for row in rows) or [row[0] for row in rows] != numbers:
        raise UserError(f"{path}: expected lines such as '1 ApplyEyeMakeup', numbered from 1")
    labels = [row[1] for row in rows]
    known = {label.lower() for label in labels}
    for name in names:
        if name.lower() not in known:
            raise UserError(f"{path}: the class {name} is not in it")
    return labels


def data_set(options: Ucf101Options) -> DataSet:
    """Finds the videos of a split and their labels.

    Raises:
      UserError: Folders or lists are missing or cannot be parsed.
    """
    split_dir = pathlib.Path(options.split_dir) if options.split_dir else None
    if split_dir and not split_dir.is_dir():
        raise UserError(f"--split_dir={split_dir}: no such folder")
    found = find_videos(pathlib.Path(options.video_dir))
    if split_dir:
        lists = {split: split_dir / f"{split}list{options.fold:02d}.txt" for split in ("train", "test")}
        needed = list(lists.values()) if options.split == "all" else [lists[options.split]]
        for file in needed:
            if not file.is_file():
                there = ", ".join(sorted(other.name for other in split_dir.glob("*list*.txt"))) or "none"
                raise UserError(f"--fold={options.fold}: no {file.name} in {split_dir}; lists there: {there}")
        # Use both lists, so that a class has the same number in each split.
        known = [video_id for file in lists.values() if file.is_file() for video_id in read_list(file)]
        wanted = [video_id for file in needed for video_id in read_list(file)]
        if not wanted:
            raise UserError(f"{' and '.join(map(str, needed))}: no videos listed")
    else:
        wanted = known = [pathlib.Path(path).stem for path in found.values()]
    wanted = list(dict.fromkeys(wanted))
    labels = class_labels(split_dir, {class_name(video_id) for video_id in known})
    numbers = {label.lower(): number for number, label in enumerate(labels)}
    videos, missing = [], []
    for video_id in wanted:
        path = found.get(video_id.lower())
        if path is None:
            missing.append(video_id)
            continue
        label = numbers[class_name(video_id).lower()]
        videos.append(Video(video_id, path, label, labels[label]))
    height, width = frame_size(options.geometry, options.resolution)
    return DataSet(
        name="ucf101",
        split=options.split,
        height=height,
        width=width,
        labels=labels,
        videos=videos,
        missing=missing,
        reader=functools.partial(
            read_resized, geometry=options.geometry, resolution=options.resolution, fps=options.fps
        ),
        options={
            "fold": options.fold,
            "geometry": options.geometry,
            "resolution": options.resolution,
            **recorded_fps(options.fps),
        },
    )


def main(options: Ucf101Options, sharding: ShardingOptions, runner: RunnerOptions) -> int:
    """Prepares one split."""
    return prepare(data_set(options), sharding, runner)


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file") from error


if __name__ == "__main__":
    option_types = (Ucf101Options, ShardingOptions, RunnerOptions)
    sys.exit(cli.run(main, option_types, "data_prep.ucf101", __doc__))
