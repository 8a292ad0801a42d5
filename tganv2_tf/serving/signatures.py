"""Export of generators as SavedModels, which need only TensorFlow to load, and their signatures.

| signature         | inputs                                                  | output `videos`                    |
|-------------------|---------------------------------------------------------|------------------------------------|
| `serving_default` | z float32 [N, z_dim]                                    | uint8 [N, T, H, W, 3]              |
| `generate_float`  | z float32 [N, z_dim]                                    | float32 [N, T, H, W, 3] in [-1, 1] |
| `generate`        | seed int64 [], num_videos int32 [], num_frames int32 [] | uint8 [N, T, H, W, 3]              |
| `preview`         | z float32 [N, z_dim], level int32 [], from 1            | uint8 [N, T, H_level, W_level, 3]  |

`generate` returns the videos of seed, seed + 1, ...; each depends only on its own seed.

With a conditional generator, each signature has one more input, `label` int32 [N], the class of each video. `generate`
also accepts one class, [1], for all videos. An invalid label is an error.

A request for more than MAX_PIXEL_BYTES of videos (one byte per pixel and channel) fails before anything is computed,
because a few bytes can request 10^9 videos; one clip is always allowed. The server must limit the number of concurrent
requests.

The loaded object also has these functions, with `label` as last argument if there are classes; all floats are float32:

- `sample(z, num_frames, level)` -> videos;
- `begin(z, num_frames, level)` -> (videos, state) and `resume(state, num_frames, level)` (if `resume_needs_z`,
  `resume(state, num_frames, level, z)`) -> (videos, state): render a video of any length in chunks, in constant memory.
  TGANv2's state is [lstm_layers, 2, N, base, base, C]. Generators of fixed length have neither.

Its variables are `z_dim`, `latent` (text: kind and size of each part of z), `num_frames` (of a training clip),
`fixed_length` (whether all videos have as many frames), `num_levels`, `sizes` [L] (height and width of each level in
pixels), `class_names` [num_classes] (empty without classes), and `fps`, the frames per second of the training clips (0
if unknown).
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Sequence

import tensorflow as tf

from tganv2_tf import storage
from tganv2_tf.errors import UserError
from tganv2_tf.models.latents import latents_from_seeds, to_text
from tganv2_tf.serving.warmup import write_warmup
from tganv2_tf.storage.files import atomic_folder

MAX_PIXEL_BYTES = 2**26  # per response: 606 frames of 192x192 pixels, or 21,845 of 32x32


def quantize(videos: tf.Tensor) -> tf.Tensor:
    """Converts floats in [-1, 1] to uint8: round((x + 1) * 127.5)."""
    return tf.cast(tf.round((tf.clip_by_value(videos, -1.0, 1.0) + 1.0) * 127.5), tf.uint8)


class ServedGenerator(tf.Module):
    """A generator as plain TensorFlow functions and variables, without Keras objects or project code.

    Attributes:
      sample, begin, resume, z_dim, latent, num_frames, fixed_length, num_levels, sizes, class_names, fps: see above.
      functions: functions by signature name, for `tf.saved_model.save`.
    """

    def __init__(self, generator: tf.keras.Model, class_names: Sequence[str] = (), fps: float = 0.0) -> None:
        super().__init__()
        config = generator.config
        levels, num_classes = config.pyramid.levels, config.num_classes
        if len(class_names) != num_classes:
            raise ValueError(f"{len(class_names)} names for {num_classes} classes")
        # Variables, because plain numbers are not exported.
        self.z_dim = tf.Variable(config.z_dim, trainable=False)
        self.num_frames = tf.Variable(config.num_frames, trainable=False)
        self.num_levels = tf.Variable(len(levels), trainable=False)
        self.sizes = tf.Variable([level.size for level in levels], trainable=False)
        self.class_names = tf.Variable(tf.constant(class_names, tf.string, [num_classes]), trainable=False)
        self.fps = tf.Variable(fps, trainable=False)
        self.latent = tf.Variable(to_text(config.latent), trainable=False)
        self.fixed_length = tf.Variable(config.FIXED_LENGTH, trainable=False)
        self.resume_needs_z = tf.Variable(generator.resume_needs_z, trainable=False)
        self.weights = generator.variables  # tracked for `save`; the Keras model itself is not exported

        latents = tf.TensorSpec([None, config.z_dim], tf.float32, "z")
        maps = tf.TensorSpec(generator.feature_shape, tf.float32)
        seed, num_videos = tf.TensorSpec([], tf.int64, "seed"), tf.TensorSpec([], tf.int32, "num_videos")
        num_frames, level = (tf.TensorSpec([], tf.int32, name) for name in ("num_frames", "level"))
        label = [tf.TensorSpec([None], tf.int32, "label")] if num_classes else []

        # No Python branch depends on a tensor; without AutoGraph tracing is faster.
        graph = functools.partial(tf.function, autograph=False)

        @graph(input_signature=[maps, level, latents, *label])
        def render(features: tf.Tensor, level: tf.Tensor, z: tf.Tensor, label: tf.Tensor | None = None) -> tf.Tensor:
            """Renders one level. All functions share this graph, which keeps the export small.

            z is used by self-modulation only.
            """
            known = f"level must be from 1 to {len(levels)}"
            tf.debugging.assert_greater_equal(level, 1, known)
            tf.debugging.assert_less_equal(level, len(levels), known)
            numbers = range(1, len(levels) + 1)
            return tf.switch_case(
                level - 1, [functools.partial(generator.render, features, number, label, z) for number in numbers]
            )

        def checked(value: tf.Tensor, num_videos: tf.Tensor, num_frames: tf.Tensor, label: tf.Tensor | None) -> tuple:
            """Returns value and label with control dependencies on the validity checks."""
            asserts = [tf.debugging.assert_greater_equal(num_frames, 1, "num_frames must be at least 1")]
            if config.FIXED_LENGTH:
                text = f"num_frames must be {config.num_frames}"
                asserts = [tf.debugging.assert_equal(num_frames, config.num_frames, text)]
            if label is not None:
                known = f"label must be from 0 to {num_classes - 1}"
                asserts += [
                    tf.debugging.assert_equal(tf.size(label), num_videos, "label must contain one class per video"),
                    tf.debugging.assert_non_negative(label, known),
                    tf.debugging.assert_less(label, num_classes, known),
                ]
            with tf.control_dependencies(asserts):
                return tf.identity(value), None if label is None else tf.identity(label)

        @graph(input_signature=[latents, num_frames, level, *label])
        def sample(z: tf.Tensor, num_frames: tf.Tensor, level: tf.Tensor, label: tf.Tensor | None = None) -> tf.Tensor:
            return begin(z, num_frames, level, label)[0]

        def begin(
            z: tf.Tensor, num_frames: tf.Tensor, level: tf.Tensor, label: tf.Tensor | None = None
        ) -> tuple[tf.Tensor, tf.Tensor]:
            z, label = checked(z, tf.shape(z)[0], num_frames, label)
            features, state = generator.begin_features(z, num_frames, label)
            return render(features, level, z, *_optional(label)), state

        def next_frames(
            state: tf.Tensor, num_frames: tf.Tensor, level: tf.Tensor, z: tf.Tensor, label: tf.Tensor | None
        ) -> tuple[tf.Tensor, tf.Tensor]:
            num_videos = tf.shape(state)[generator.state_shape.index(None)]
            state, label = checked(state, num_videos, num_frames, label)
            features, state = generator.resume_features(state, num_frames, z)
            return render(features, level, z, *_optional(label)), state

        def resume_with_z(
            state: tf.Tensor, num_frames: tf.Tensor, level: tf.Tensor, z: tf.Tensor, label: tf.Tensor | None = None
        ) -> tuple[tf.Tensor, tf.Tensor]:
            return next_frames(state, num_frames, level, z, label)

        def resume(
            state: tf.Tensor, num_frames: tf.Tensor, level: tf.Tensor, label: tf.Tensor | None = None
        ) -> tuple[tf.Tensor, tf.Tensor]:
            return next_frames(state, num_frames, level, tf.zeros([0, config.z_dim]), label)

        self.sample = sample
        if not config.FIXED_LENGTH:
            state = [tf.TensorSpec(generator.state_shape, tf.float32, "state"), num_frames, level]
            self.begin = graph(begin, input_signature=[latents, num_frames, level, *label])
            if generator.resume_needs_z:
                self.resume = graph(resume_with_z, input_signature=[*state, latents, *label])
            else:
                self.resume = graph(resume, input_signature=[*state, *label])

        def last_level(z: tf.Tensor, num_frames: int | tf.Tensor, label: tf.Tensor | None) -> tf.Tensor:
            videos = sample(z, num_frames, len(levels), *_optional(label))
            frames = num_frames if isinstance(num_frames, int) else None
            return tf.ensure_shape(videos, [None, frames, config.resolution, config.resolution, 3])

        max_bytes = max(MAX_PIXEL_BYTES, 3 * config.num_frames * config.resolution**2)

        def bounded(num_videos: tf.Tensor, num_frames: int | tf.Tensor, *values: tf.Tensor) -> list[tf.Tensor]:
            """Returns the values with a control dependency on the check of the request size.

            All values that determine a size must pass through here: TensorFlow aborts the process if a tensor's number
            of elements exceeds 64 bits.
            """
            is_allowed = tf.debugging.assert_less_equal(
                tf.cast(num_videos, tf.float64) * tf.cast(num_frames, tf.float64) * (3 * config.resolution**2),
                tf.constant(max_bytes, tf.float64),
                f"too many videos or frames: valid: up to {max_bytes} bytes of pixels per response",
            )
            with tf.control_dependencies([is_allowed]):
                return [tf.identity(value) for value in values]

        @graph(input_signature=[latents, *label])
        def generate_float(z: tf.Tensor, label: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
            (z,) = bounded(tf.shape(z)[0], config.num_frames, z)
            return {"videos": last_level(z, config.num_frames, label)}

        @graph(input_signature=[latents, *label])
        def serving_default(z: tf.Tensor, label: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
            (z,) = bounded(tf.shape(z)[0], config.num_frames, z)
            return {"videos": quantize(last_level(z, config.num_frames, label))}

        @graph(input_signature=[seed, num_videos, num_frames, *label])
        def generate(
            seed: tf.Tensor, num_videos: tf.Tensor, num_frames: tf.Tensor, label: tf.Tensor | None = None
        ) -> dict[str, tf.Tensor]:
            num_videos, num_frames = bounded(num_videos, num_frames, num_videos, num_frames)
            z = latents_from_seeds(seed + tf.range(tf.cast(num_videos, tf.int64)), config.latent)
            if label is not None:
                label = tf.cond(tf.equal(tf.size(label), 1), lambda: tf.repeat(label, num_videos), lambda: label)
            return {"videos": quantize(last_level(z, num_frames, label))}

        @graph(input_signature=[latents, level, *label])
        def preview(z: tf.Tensor, level: tf.Tensor, label: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
            (z,) = bounded(tf.shape(z)[0], config.num_frames, z)  # bounds the last level, and thus all levels
            return {"videos": quantize(sample(z, config.num_frames, level, *_optional(label)))}

        # Not traced here: `save` would trace them again and write both graphs.
        self.functions = {
            "serving_default": serving_default,
            "generate_float": generate_float,
            "generate": generate,
            "preview": preview,
        }


def _optional(label: tf.Tensor | None) -> list[tf.Tensor]:
    return [] if label is None else [label]


def next_version(folder: str | os.PathLike[str]) -> int:
    """Returns the largest version in NAME/ plus one, or 1 if there is none."""
    return max((int(name) for name in storage.names(folder) if name.isdigit()), default=0) + 1


def export(
    generator: tf.keras.Model,
    folder: str | os.PathLike[str],
    version: int | None = None,
    class_names: Sequence[str] = (),
    fps: float = 0.0,
) -> str:
    """Writes a SavedModel to folder/VERSION atomically; in a bucket, the `.pb` file is written last.

    Args:
      generator: the averaged generator of a run.
      folder: saved_models/NAME.
      version: version number; None = the next one.
      class_names: of a conditional generator, in the order of the labels.
      fps: frames per second of the training clips; 0 = unknown.
    Returns:
      The path of the version.
    Raises:
      UserError: the version already exists.
    """
    number = str(next_version(folder) if version is None else version)
    target = storage.join(folder, number)
    if storage.exists(target):
        raise UserError(f"{target} already exists; omit --version to write the next one")
    if storage.is_remote(folder):
        with tempfile.TemporaryDirectory() as local:
            storage.copy_folder(export(generator, local, int(number), class_names, fps), target, "saved_model.pb")
        return target
    with atomic_folder(target) as temporary:
        module = ServedGenerator(generator, class_names, fps)
        tf.saved_model.save(module, str(temporary), signatures=dict(module.functions))
        write_warmup(temporary, generator.config)
    return target
