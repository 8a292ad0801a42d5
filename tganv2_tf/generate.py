"""Generates videos from a run or from a SavedModel.

python -m tganv2_tf.generate --model_dir=runs/ucf101 --seeds=0-24 --output=samples.gif
python -m tganv2_tf.generate --saved_model=saved_models/ucf101/1 --seeds=3,7 --layout=single --output=video.mp4
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import sys
from typing import TYPE_CHECKING, Callable

from tganv2_tf import cli_flags
from tganv2_tf.config import option, require
from tganv2_tf.errors import ConfigError, UserError

if TYPE_CHECKING:
    import numpy as np


def parse_seeds(text: str) -> list[int]:
    """`0-3,8` -> [0, 1, 2, 3, 8].

    Raises:
      ConfigError: anything else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise ConfigError(
                f"--seeds={text}: {part!r} is neither a number nor a range; valid: for example 0-15 or 3,7,12"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= 2**63:
            raise ConfigError(f"--seeds={text}: {last} is too large; valid: below 2^63")
        if last < first:
            raise ConfigError(f"--seeds={text}: the range {part!r} runs backwards; valid: {last}-{first}")
        seeds.extend(range(first, last + 1))
    return seeds


@dataclasses.dataclass(frozen=True)
class Command:
    """Command."""

    output: str = option("file to write: .gif, .mp4 (H.264) or .png (a strip of frames)")
    model_dir: str = option("a run, RUN/best, or a checkpoint such as RUN/snapshots/ckpt-10000", "")
    saved_model: str = option("folder of one version of a SavedModel, instead of --model_dir", "")
    seeds: str = option("one video a seed: numbers and ranges, such as 0-15 or 3,7,12", "0-15")
    layout: str = option("one grid, or single files named by seed", "grid", ("grid", "single"))
    columns: int = option("videos a row of the grid; 0 = about as many as rows", 0)
    level: int = option("level to render, from 1; 0 = the last, full resolution", 0)
    num_frames: int = option("frames of a video; 0 = as in training", 0)
    fps: float = option("frames a second", 10.0)
    scale: int = option("enlarge by this factor, by repeated pixels", 1)

    def __post_init__(self) -> None:
        if bool(self.model_dir) == bool(self.saved_model):
            raise ConfigError("--model_dir or --saved_model, one of the two, must say where the generator is")
        parse_seeds(self.seeds)
        for name, least in (("columns", 0), ("level", 0), ("num_frames", 0), ("scale", 1)):
            require(getattr(self, name) >= least, name, getattr(self, name), f"a whole number of at least {least}")
        require(0 < self.fps <= 50, "fps", self.fps, "a number above 0, up to 50")


def load_sampler(command: Command) -> Callable[[int], np.ndarray]:
    """A function from a seed to its video, uint8 [T, H, W, 3].

    Raises:
      UserError: no run or SavedModel there, or no such level.
    """
    import tensorflow as tf

    from tganv2_tf import videos
    from tganv2_tf.models.latents import latents_from_seeds

    if command.model_dir:
        from tganv2_tf.training.checkpoints import load_generator

        generator, config, _ = load_generator(command.model_dir)
        z_dim, default_frames = config.model.z_dim, config.model.num_frames
        num_levels = config.model.pyramid.num_levels
        sample = tf.function(lambda z, num_frames, level: generator(z, num_frames, level=int(level)))
    else:
        try:
            loaded = tf.saved_model.load(command.saved_model)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"--saved_model={command.saved_model}: no SavedModel there; name the folder NAME/VERSION"
            ) from error
        if not hasattr(loaded, "sample") or "generate_float" not in loaded.signatures:
            raise UserError(f"--saved_model={command.saved_model}: not a generator exported by tganv2_tf.export")
        served = loaded.signatures["generate_float"]
        z_dim = served.structured_input_signature[1]["z"].shape[1]
        default_frames = served.structured_outputs["videos"].shape[1]
        num_levels = int(loaded.num_levels)
        sample = lambda *inputs: loaded.sample(*inputs)  # noqa: E731 (the function alone does not keep its variables)
    level = command.level or num_levels
    if level > num_levels:
        raise ConfigError(f"--level={level}: the generator has {num_levels} levels; valid: 1 to {num_levels}")
    num_frames = tf.constant(command.num_frames or default_frames)

    def video(seed: int) -> np.ndarray:
        z = latents_from_seeds(tf.constant([seed], tf.int64), z_dim)
        return videos.to_uint8(sample(z, num_frames, level).numpy()[0])

    return video


def main(command: Command) -> int:
    from tganv2_tf import videos

    videos.check_suffix(command.output)
    import numpy as np
    from tqdm import tqdm

    sampler, output = load_sampler(command), pathlib.Path(command.output)
    seeds, samples = parse_seeds(command.seeds), []
    for seed in tqdm(seeds, unit="video", disable=len(seeds) == 1):
        sample = videos.enlarge(sampler(seed), command.scale)
        if command.layout == "single":
            videos.write_video(output.with_name(f"{output.stem}-seed{seed}{output.suffix}"), sample, command.fps)
        else:
            samples.append(sample)
    if command.layout == "grid":
        stacked = np.stack(samples)
        if output.suffix.lower() == ".png":
            videos.write_image(output, videos.strip(stacked))
        else:
            videos.write_video(output, videos.grid(stacked, command.columns or None), command.fps)
    single = output.with_name(f"{output.stem}-seed*{output.suffix}")
    print(f"{len(seeds)} videos: {single if command.layout == 'single' else output}")
    return 0


if __name__ == "__main__":
    sys.exit(cli_flags.run(main, (Command,), "tganv2_tf.generate", __doc__))
