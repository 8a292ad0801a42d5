"""Prepares FaceForensics (the original of 2018): videos and mask videos -> TFRecord shards of square face crops.

python -m data_prep.faceforensics --root=FaceForensics_compressed --split=train --video_timeout=600 \\
  --output_dir=data/faceforensics/train

ROOT/{train,val,test}/original holds the videos and ROOT/{train,val,test}/mask their masks under the same names;
`altered` is not used. --box=smoothed follows the face without jitter: the square contains the whole mask in every frame
and is interpolated where masks are empty. --box=official is the rule of the authors' code, with one square per frame.

Masks of FaceForensics++ in this layout need --mask_kind=faceforensics++: they are white inside the face, those of
FaceForensics outside it. A video with masks of the other kind is skipped, because its face touches all borders.

Squares that extend beyond the frame are moved into it. A mask video may have up to two frames more or fewer than its
video (only the common frames are used) and another size with the same aspect ratio; otherwise the video is skipped.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import sys

from data_prep.data_set import DataSet
from data_prep.options import FPS_HELP, ShardingOptions, recorded_fps, require_fps, require_resolution
from data_prep.readers import BOX_RULES, MASK_KINDS, read_masked_face
from data_prep.shard_writer import Video
from data_prep.sharding import prepare
from tganv2_tf import cli
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require
from tganv2_tf.ray_cluster import RunnerOptions
from tganv2_tf.video_io.folders import VIDEO_NAME


@dataclasses.dataclass(frozen=True)
class FaceForensicsOptions:
    """Videos and crops."""

    root: str = option("folder that holds train, val and test, e.g. FaceForensics_compressed")
    split: str = option("folder to prepare, in --root", "train", ("train", "val", "test"))
    box: str = option(
        "smoothed = the square follows the face without jitter; official = a separate square per frame",
        "smoothed",
        BOX_RULES,
    )
    mask_kind: str = option(
        "faceforensics = white outside the face; faceforensics++ = white inside the face",
        MASK_KINDS[0],
        MASK_KINDS,
    )
    face_margin: float = option("margin added to each side of the square, as a fraction of its side", 0.0)
    resolution: int = option("R, height and width of the frames in pixels", 256)
    fps: float = option(FPS_HELP, 0.0)

    def __post_init__(self) -> None:
        require(bool(self.root), "root", self.root, "the folder that holds train, val and test")
        require(0 <= self.face_margin <= 2, "face_margin", self.face_margin, "0 to 2")
        require_resolution(self.resolution)
        require_fps(self.fps)


def find_videos(folder: pathlib.Path) -> dict[str, str]:
    """Returns the paths of the videos in a folder, by file name without extension.

    Raises:
      UserError: The folder does not exist, contains no videos, or contains two of the same name.
    """
    if not folder.is_dir():
        raise UserError(f"--root: no folder {folder}; name the folder that holds train, val and test")
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if not VIDEO_NAME.fullmatch(path.name):
            continue
        if path.stem in found:
            raise UserError(f"two videos have the same name, keep one of them: {found[path.stem]} and {path}")
        found[path.stem] = os.fspath(path)
    if not found:
        raise UserError(f"--root: no videos in {folder}")
    return found


def data_set(options: FaceForensicsOptions) -> DataSet:
    """Finds the videos of a split and their masks; a video without a mask, or the reverse, counts as missing.

    Raises:
      UserError: Folders are missing or empty.
    """
    folder = pathlib.Path(options.root) / options.split
    originals, masks = find_videos(folder / "original"), find_videos(folder / "mask")
    missing = [f"mask/{name}" for name in originals.keys() - masks.keys()]
    missing += [f"original/{name}" for name in masks.keys() - originals.keys()]
    reader = functools.partial(
        read_masked_face,
        box_rule=options.box,
        margin=options.face_margin,
        resolution=options.resolution,
        fps=options.fps,
        mask_kind=options.mask_kind,
    )
    other_kind = {} if options.mask_kind == MASK_KINDS[0] else {"mask_kind": options.mask_kind}
    return DataSet(
        name="faceforensics",
        split=options.split,
        height=options.resolution,
        width=options.resolution,
        labels=[],
        videos=[Video(name, path, mask=masks[name]) for name, path in originals.items() if name in masks],
        missing=sorted(missing),
        reader=reader,
        options={
            "box": options.box,
            "face_margin": options.face_margin,
            "resolution": options.resolution,
            **recorded_fps(options.fps),
            **other_kind,  # omitted by default, as in data sets of older versions
        },
        source="--root",
    )


def main(options: FaceForensicsOptions, sharding: ShardingOptions, runner: RunnerOptions) -> int:
    """Prepares one split."""
    return prepare(data_set(options), sharding, runner)


if __name__ == "__main__":
    option_types = (FaceForensicsOptions, ShardingOptions, RunnerOptions)
    sys.exit(cli.run(main, option_types, "data_prep.faceforensics", __doc__))
