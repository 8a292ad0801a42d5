"""One-line instructions for users whose data set is missing, with the recipe's data_prep command."""

from __future__ import annotations

import re

from tganv2_tf.config import Config, DataConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.storage.files import Path
from tganv2_tf.systems import SystemConfig
from tganv2_tf.video_io.folders import VIDEO_NAME, walk

MODULE = "python -m data_prep."
DEFAULT_COMMAND = "video_folder --video_dir=VIDEOS"


def preparation(model: SystemConfig, data: DataConfig) -> str:
    """Returns the recipe's data_prep command without `python -m data_prep.`; empty if the recipe has none."""
    return data.data_prep and f"{data.data_prep} --resolution={model.resolution}"


def how_to_make(folder: str, command: str = "") -> str:
    """Returns instructions to make a data set.

    Args:
      folder: Folder of the shards.
      command: Result of `preparation`.
    """
    if not command:
        return "`python -m tganv2_tf` lists the data_prep commands that make one"
    return f"make one with: {MODULE}{command} --output_dir={folder}"


def how_to_prepare(videos: str, command: str = "") -> str:
    """Returns instructions to make a data set from the videos in a folder. `command` is as in `how_to_make`."""
    of_videos = (command or DEFAULT_COMMAND).rpartition(MODULE)[2]  # the last step, whose input is videos
    chosen = re.sub(r"--(video_dir|root)=\S+", lambda flag: f"--{flag[1]}={videos}", of_videos)
    return f"prepare them with: {MODULE}{chosen} --output_dir=SHARDS, then set --data_dir=SHARDS"


def holds_videos(folder: Path) -> bool:
    """Returns whether a local folder or its subfolders contain a video file."""
    try:
        return any(VIDEO_NAME.fullmatch(name) for _, names in walk(folder) for name in names)
    except OSError:
        return False


def require_folders(config: Config) -> None:
    """Raises ConfigError if `model_dir` or `data_dir` is not set."""
    if not config.train.model_dir:
        raise ConfigError("--model_dir is missing: the folder of the run")
    require_data_dir(config.model, config.data)


def require_data_dir(model: SystemConfig, data: DataConfig) -> None:
    """Raises ConfigError if `data_dir` is not set."""
    if not data.data_dir:
        raise ConfigError(
            f"--data_dir is missing: the folder of the shards; {how_to_make('SHARDS', preparation(model, data))}"
        )
