"""Prepares a folder of videos of any kind: converts them to TFRecord shards with a manifest.

python -m data_prep.video_folder --video_dir=VIDEOS --split=train --resolution=128 --output_dir=data/own/train
python -m data_prep.video_folder --video_dir=VIDEOS --split=all --face_box --output_dir=data/faces
python -m data_prep.video_folder --video_dir=ROOT/test --split=test --test_fraction=1 --class_level=1 \\
  --classes=data/own/train --output_dir=data/own/test

A video is a file, or a folder of images (.jpg, .png, .webp), one per frame, ordered by the numbers in their names. The
folder that contains a video is its label, e.g. `sports/tennis`; videos at the top have none. --class_level=1 uses only
the first of these folders. --classes fixes the classes and their numbers. The id of a video is its path in the folder.
Hidden files and folders are ignored. Symbolic links are followed, also out of the folder; in a cycle of links, each
folder counts once.

Frames look as in a good player: colours follow the declared matrix and range; frames are upright, deinterlaced and have
square pixels; grey becomes three equal channels; transparency is removed. HDR is rejected. Every coded frame becomes a
frame of the data set, in order, regardless of its time stamp. --fps=25 resamples all videos to one rate instead, which
is needed for mixed rates. It cannot be used with folders of images, which have no rate.

Whether a video belongs to the test split depends only on its id and --split_seed: adding or removing other videos does
not change it. As a consequence, --test_fraction is met only approximately.

--face_box crops the main face of each video, with a detector that comes with OpenCV; videos should be single shots.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import os
import pathlib
import sys
from typing import Any

from data_prep.data_set import DataSet
from data_prep.options import ShardingOptions, VideoDirOptions, recorded_fps
from data_prep.readers import read_detected_face, read_resized
from data_prep.shard_writer import Reader, Video
from data_prep.sharding import prepare
from tganv2_tf import cli, storage
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.records import NO_LABEL
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.options import option, require
from tganv2_tf.ray_cluster import RunnerOptions
from tganv2_tf.video_io.folders import find_videos
from tganv2_tf.video_io.geometry import frame_size


@dataclasses.dataclass(frozen=True)
class VideoFolderOptions(VideoDirOptions):
    """Videos and frames."""

    split: str = option("videos to prepare; all = train and test", "all", ("train", "test", "all"))
    test_fraction: float = option("approximate fraction of the videos in the test split", 0.1)
    split_seed: int = option("seed of the choice of test videos", 0)
    class_level: int = option(
        "level of the folder that is the class of a video: 1 = the first below --video_dir; 0 = all, as sports/tennis",
        0,
    )
    classes: str = option(
        "classes in the order of their numbers: a text file, one name per line, or the folder of a prepared data set; "
        "none = the classes found, sorted",
        "",
    )
    face_box: bool = option("crop the main face of each video instead of the centre", False)
    face_margin: float = option("margin added to each side of the square of --face_box, as a fraction of its side", 0.3)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.test_fraction <= 1, "test_fraction", self.test_fraction, "0 to 1")
        require(0 <= self.face_margin <= 2, "face_margin", self.face_margin, "0 to 2")
        require(self.class_level >= 0, "class_level", self.class_level, "a whole number of at least 0")
        if self.face_box and self.geometry != "paper":
            raise ConfigError(f"--geometry={self.geometry}: --face_box makes squares; omit one of the two")


def _id(folder: pathlib.Path, path: str) -> str:
    relative = pathlib.Path(path).relative_to(folder).as_posix()
    # File names may contain any bytes; text in records must be valid UTF-8.
    return os.fsencode(relative).decode("utf-8", "backslashreplace")


def is_test_video(video_id: str, test_fraction: float, split_seed: int) -> bool:
    """Returns whether a video belongs to the test split; true for a random fraction of about `test_fraction`."""
    digest = hashlib.sha256(f"split {split_seed} {video_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < test_fraction * 2**64


def label_of(video_id: str, class_level: int) -> str:
    """Returns the class name: the folder at that level of the path, or all folders for 0; empty for a video at the top.

    Raises:
      ConfigError: The path has fewer levels.
    """
    folders = video_id.split("/")[:-1]
    if not class_level:
        return "/".join(folders)
    if len(folders) < class_level:
        raise ConfigError(f"--class_level={class_level}: {video_id} lies above that level; move it, or lower the level")
    return folders[class_level - 1]


def read_classes(path: str) -> list[str]:
    """Returns the class names, ordered by class number.

    Args:
      path: A text file with one name per line, or the folder of a prepared data set.
    Raises:
      UserError: The file or folder does not exist, there are no classes, or a class is listed twice.
    """
    if storage.is_folder(path):
        classes = Manifest.read(path).labels
    else:
        try:
            lines = storage.read_bytes(path).decode("utf-8-sig").splitlines()
        except OSError as error:
            raise UserError(f"--classes={path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"--classes={path}: not a text file") from error
        classes = [line.strip() for line in lines if line.strip()]
    if not classes:
        raise UserError(f"--classes={path}: there are no classes in it")
    for name, count in collections.Counter(classes).items():
        if count > 1:
            raise UserError(f"--classes={path}: {name!r} is listed {count} times")
    return classes


def _classes(labels: dict[str, str], path: str) -> list[str]:
    """Returns all classes. With `path`, the classes in it, which must include the label of every video id."""
    if not path:
        return sorted({*labels.values()} - {""})
    classes = read_classes(path)
    known = {"", *classes}
    for video_id, label in labels.items():
        if label not in known:
            raise UserError(f"--classes={path}: {label!r}, the class of {video_id}, is not in it")
    return classes


def data_set(options: VideoFolderOptions) -> DataSet:
    """Finds the videos of a split and their labels, which are numbered alike in all splits.

    Raises:
      UserError: The folder does not exist, it or the split has no videos, or a class is not among `classes`.
      OSError: A folder cannot be read.
    """
    folder = pathlib.Path(options.video_dir)
    found = find_videos(folder, "--video_dir=")
    if options.fps and found.frame_folders:
        raise ConfigError(
            f"--fps={options.fps:g}: {found.frame_folders[0]} is a folder of frames, which has no frame rate; "
            "omit --fps"
        )
    paths = {_id(folder, path): path for path in found.videos}
    labels = {video_id: label_of(video_id, options.class_level) for video_id in paths}
    classes = _classes(labels, options.classes)
    numbers = {"": NO_LABEL, **{name: number for number, name in enumerate(classes)}}
    videos = []
    for video_id, path in paths.items():
        for_test = is_test_video(video_id, options.test_fraction, options.split_seed)
        if options.split in ("all", "test" if for_test else "train"):
            videos.append(Video(video_id, path, numbers[labels[video_id]], labels[video_id]))
    if not videos:
        raise UserError(
            f"--split={options.split}: none of the {len(paths)} videos are in it; try another --split_seed or "
            "--test_fraction"
        )
    frames = f"; folders of frames: {len(found.frame_folders)}" if found.frame_folders else ""
    others = found.others
    ignored = f"; files of other kinds: {len(others)}, e.g. {_id(folder, others[0])}" if others else ""
    print(f"{folder}: {len(videos)} of {len(paths)} videos for --split={options.split}{frames}{ignored}")
    size = options.resolution
    reader: Reader
    if options.face_box:
        height, width = size, size
        reader = functools.partial(read_detected_face, margin=options.face_margin, resolution=size, fps=options.fps)
    else:
        height, width = frame_size(options.geometry, size)
        reader = functools.partial(read_resized, geometry=options.geometry, resolution=size, fps=options.fps)
    recorded = ("geometry", "resolution", "test_fraction", "split_seed", "face_box", "face_margin")
    return DataSet(
        name="video_folder",
        split=options.split,
        height=height,
        width=width,
        labels=classes,
        videos=videos,
        missing=[],
        reader=reader,
        options={
            **{name: getattr(options, name) for name in recorded},
            **recorded_fps(options.fps),
            **_recorded_classes(options, classes),
        },
    )


def _recorded_classes(options: VideoFolderOptions, classes: list[str]) -> dict[str, Any]:
    """Returns the class options as recorded in a manifest: omitted by default, as in data sets of older versions."""
    digest = hashlib.sha256("\n".join(classes).encode()).hexdigest()[:16]
    fixed = {"classes": f"{len(classes)} with digest {digest}"} if options.classes else {}
    return {**({"class_level": options.class_level} if options.class_level else {}), **fixed}


def main(options: VideoFolderOptions, sharding: ShardingOptions, runner: RunnerOptions) -> int:
    """Prepares one split."""
    return prepare(data_set(options), sharding, runner)


if __name__ == "__main__":
    option_types = (VideoFolderOptions, ShardingOptions, RunnerOptions)
    sys.exit(cli.run(main, option_types, "data_prep.video_folder", __doc__))
