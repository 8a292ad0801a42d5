"""Options shared by all preparation scripts."""

from __future__ import annotations

import dataclasses

from tganv2_tf.options import option, require
from tganv2_tf.pyramid import FIRST_LEVEL_BLOCKS
from tganv2_tf.video_io.geometry import GEOMETRIES

FPS_HELP = "frames per second to resample all videos to, by the nearest frame in time; 0 = keep every coded frame"
MAX_FPS = 1000
MIN_RESOLUTION, MAX_RESOLUTION = 2**FIRST_LEVEL_BLOCKS, 8192  # the smallest one of a single level, see PyramidSpec


@dataclasses.dataclass(frozen=True)
class VideoDirOptions:
    """A folder of videos, and the size of the frames to make of them."""

    video_dir: str = option("folder of the videos")
    geometry: str = option(
        "paper = centre square, resized; official = whole frame, resized to R x 4R/3 for crops in training",
        "paper",
        GEOMETRIES,
    )
    resolution: int = option("R, height of the frames in pixels", 192)
    fps: float = option(FPS_HELP, 0.0)

    def __post_init__(self) -> None:
        require(bool(self.video_dir), "video_dir", self.video_dir, "the folder of the videos")
        require_resolution(self.resolution)
        require_fps(self.fps)


def require_resolution(resolution: int) -> None:
    """Raises ConfigError if no recipe can train on frames of --resolution pixels with any number of levels."""
    valid = f"a multiple of {MIN_RESOLUTION} up to {MAX_RESOLUTION}; no recipe can train on others"
    fits = MIN_RESOLUTION <= resolution <= MAX_RESOLUTION and resolution % MIN_RESOLUTION == 0
    require(fits, "resolution", resolution, valid)


def require_fps(fps: float) -> None:
    """Raises ConfigError if --fps, in frames per second, is not a valid rate."""
    require(0 <= fps <= MAX_FPS, "fps", fps, f"a number from 0 to {MAX_FPS}")


def recorded_fps(fps: float) -> dict[str, float]:
    """Returns --fps as recorded in a manifest: omitted by default, as in data sets of older versions."""
    return {"fps": fps} if fps else {}


@dataclasses.dataclass(frozen=True)
class ShardingOptions:
    """Shards and how they are made."""

    output_dir: str = option("folder for the shards and their manifest.json")
    encoding: str = option(
        "format of the stored frames; png is lossless and several times larger", "jpeg", ("jpeg", "png")
    )
    jpeg_quality: int = option("quality of JPEG frames, 1 to 100", 92)
    shard_mib: int = option("approximate size of a shard in MiB", 128)
    min_frames: int = option("minimum number of frames per video; shorter ones are skipped", 16)
    max_record_frames: int = option("maximum number of frames per record; longer videos are split", 1024)
    seed: int = option("seed of the order of the videos in the shards", 0)
    num_workers: int = option("worker processes; 0 = one per processor", 0)
    video_timeout: float = option("time limit per video in seconds; slower ones are skipped", 120.0)
    max_failures: int = option("maximum number of skipped videos; with more, the data set is not finished", 10)

    def __post_init__(self) -> None:
        require(bool(self.output_dir), "output_dir", self.output_dir, "the folder to create")
        require(1 <= self.jpeg_quality <= 100, "jpeg_quality", self.jpeg_quality, "1 to 100")
        for name in ("shard_mib", "min_frames"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        for name in ("seed", "num_workers", "max_failures"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a whole number of at least 0")
        require(self.video_timeout > 0, "video_timeout", self.video_timeout, "a number of seconds above 0")
        # Neighbouring segments share min_frames - 1 frames. If segments were shorter than twice that, they would mostly
        # repeat.
        least = 2 * self.min_frames
        require(
            self.max_record_frames >= least,
            "max_record_frames",
            self.max_record_frames,
            f"at least {least}, twice --min_frames",
        )
