"""What an exported SavedModel offers; it loads with TensorFlow alone.

| signature         | inputs                                                  | output `videos`                    |
|-------------------|---------------------------------------------------------|------------------------------------|
| `serving_default` | z float32 [N, z_dim]                                    | uint8 [N, T, H, W, 3]              |
| `generate_float`  | z float32 [N, z_dim]                                    | float32 [N, T, H, W, 3] in [-1, 1] |
| `generate`        | seed int64 [], num_videos int32 [], num_frames int32 [] | uint8 [N, T, H, W, 3]              |
| `preview`         | z float32 [N, z_dim], level int32 [], from 1            | uint8 [N, T, H_level, W_level, 3]  |

`generate` gives the videos of the seeds seed, seed + 1, ...: each depends on its own seed only. The loaded object also
has `sample(z, num_frames, level)`, float32, which all of them wrap.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

import tensorflow as tf

from tganv2_tf.errors import UserError
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import latents_from_seeds


def quantize(videos: tf.Tensor) -> tf.Tensor:
    """float in [-1, 1] -> uint8, round((x + 1) * 127.5)."""
    return tf.cast(tf.round((tf.clip_by_value(videos, -1.0, 1.0) + 1.0) * 127.5), tf.uint8)


class ServedGenerator(tf.Module):
    """A generator as plain TensorFlow functions and variables, without Keras objects or code of ours.

    Attributes:
      functions: name -> concrete function, the signatures for `tf.saved_model.save`.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        config = generator.config
        num_levels = config.pyramid.num_levels
        self.num_levels = tf.Variable(num_levels, trainable=False)  # a plain number would not be exported
        self.weights = generator.variables  # found here by `save`; the Keras model itself is not part of the export
        latents = tf.TensorSpec([None, config.z_dim], tf.float32, "z")
        number = {name: tf.TensorSpec([], tf.int32, name) for name in ("num_frames", "level", "num_videos")}

        @tf.function(input_signature=[latents, number["num_frames"], number["level"]])
        def sample(z: tf.Tensor, num_frames: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
            tf.debugging.assert_greater_equal(num_frames, 1, "num_frames must be at least 1")
            tf.debugging.assert_greater_equal(level, 1, f"level must be from 1 to {num_levels}")
            tf.debugging.assert_less_equal(level, num_levels, f"level must be from 1 to {num_levels}")
            branches = [
                lambda number=number: generator(z, num_frames, level=number) for number in range(1, num_levels + 1)
            ]
            return tf.switch_case(level - 1, branches)

        @tf.function(input_signature=[latents])
        def generate_float(z: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"videos": generator(z)}

        @tf.function(input_signature=[latents])
        def serving_default(z: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"videos": quantize(generator(z))}

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64, "seed"), number["num_videos"], number["num_frames"]])
        def generate(seed: tf.Tensor, num_videos: tf.Tensor, num_frames: tf.Tensor) -> dict[str, tf.Tensor]:
            z = latents_from_seeds(seed + tf.range(tf.cast(num_videos, tf.int64)), config.z_dim)
            return {"videos": quantize(generator(z, num_frames))}

        @tf.function(input_signature=[latents, number["level"]])
        def preview(z: tf.Tensor, level: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"videos": quantize(sample(z, config.num_frames, level))}

        self.sample = sample
        functions = {
            "serving_default": serving_default,
            "generate_float": generate_float,
            "generate": generate,
            "preview": preview,
        }
        self.functions = {name: function.get_concrete_function() for name, function in functions.items()}


def next_version(folder: str | os.PathLike[str]) -> int:
    """One more than the largest version in NAME/, or 1."""
    path = pathlib.Path(folder)
    versions = [int(entry.name) for entry in path.iterdir() if entry.name.isdigit()] if path.is_dir() else []
    return max(versions, default=0) + 1


def export(generator: Generator, folder: str | os.PathLike[str], version: int | None = None) -> pathlib.Path:
    """Writes a SavedModel to folder/VERSION, which appears only when it is whole.

    Args:
      generator: the averaged generator of a run.
      folder: saved_models/NAME.
      version: the next one where it is None.
    Returns:
      The path of the version.
    Raises:
      UserError: that version is already there.
    """
    parent = pathlib.Path(folder)
    target = parent / str(next_version(parent) if version is None else version)
    if target.exists():
        raise UserError(f"{target} is already there; leave --version out to write the next one")
    parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".unfinished-", dir=parent)
    try:
        module = ServedGenerator(generator)
        tf.saved_model.save(module, temporary, signatures=module.functions)
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target
