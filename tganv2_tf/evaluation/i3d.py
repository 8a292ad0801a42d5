"""I3D, the feature extractor of FVD and KVD.

FVD (Unterthiner et al., 2018, arXiv:1812.01717) is the Frechet distance of the logits of I3D (Carreira & Zisserman,
2017, arXiv:1705.07750), trained on Kinetics-400. Values are comparable only if they use the same network,
https://tfhub.dev/deepmind/i3d-kinetics-400/1, and the same preprocessing. This module follows the FVD authors' code.
"""

from __future__ import annotations

import http.client
import logging
import pathlib
import tarfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tganv2_tf.data.manifest import folder_checksum
from tganv2_tf.errors import UserError
from tganv2_tf.runtime import lanes

SIZE = 224  # pixels
SIGNATURES = ("default", "serving_default")  # in TF1 Hub format, and in other SavedModels
RANGE_TOLERANCE = 1e-3  # beyond [-1, 1], as in the FVD authors' code


def load_i3d(path: str) -> I3D:
    """Loads the network.

    Args:
      path: folder of an unpacked TF-Hub module or another SavedModel; or the URL of a TF-Hub module, which TensorFlow
        Hub downloads on first use and caches in TFHUB_CACHE_DIR, if that is set.
    Raises:
      UserError: the SavedModel does not exist, is damaged, or cannot be used by `I3D`; or TensorFlow Hub is needed but
        not installed, or cannot download the module.
    """
    folder = _folder(path)
    if not any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise UserError(f"{path}: no SavedModel found; specify the folder of the unpacked module, with saved_model.pb")
    # A module in TF1 Hub format may contain a second graph for training; the inference graph has no tags.
    tags: list[str] | None = [] if (folder / "tfhub_module.pb").is_file() else None
    tf.get_logger().addFilter(_matters)
    try:
        module = tf.saved_model.load(str(folder), tags)
    except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(f"{path}: the SavedModel cannot be loaded and may be incomplete: {_reason(error)}") from error
    finally:
        tf.get_logger().removeFilter(_matters)
    return I3D(path, module, folder_checksum(folder))


class I3D:
    """I3D (Carreira & Zisserman, 2017, arXiv:1705.07750), from a SavedModel that the user supplies.

    Attributes:
      path: source of the module.
      checksum: `sha256:` and the hexadecimal digest of all file names and contents in the module's folder; it does not
        depend on the folder's location.
    """

    def __init__(self, path: str, module: Any, checksum: str) -> None:
        """Finds the input and output of the module.

        Args:
          path: source of the module.
          module: a loaded SavedModel. Its signature `default` (or else `serving_default`) accepts float32
            [N, T, 224, 224, 3] in [-1, 1] and returns float32 [N, d], named `default` if there are other outputs.
          checksum: checksum of the module.
        Raises:
          UserError: the module has no such signature.
        """
        self.path, self.checksum = path, checksum
        name = next((name for name in SIGNATURES if name in module.signatures), None)
        if name is None:
            raise UserError(f"{path}: has the signatures {sorted(module.signatures)}; expected one of {SIGNATURES}")
        self._signature = module.signatures[name]
        inputs, outputs = self._signature.structured_input_signature[1], self._signature.structured_outputs
        input_name = _choose(inputs, [None, None, SIZE, SIZE, 3])
        if input_name is None or len(inputs) > 1:
            raise UserError(
                f"{path}: signature {name!r} has inputs {_described(inputs)}; expected one float32 "
                f"[N, T, {SIZE}, {SIZE}, 3]"
            )
        output_name = _choose(outputs, [None, None])
        if output_name is None:
            raise UserError(
                f"{path}: signature {name!r} has outputs {_described(outputs)}; expected a float32 [N, d], named "
                "'default' if there are several"
            )
        self._input, self._input_shape, self._output = input_name, inputs[input_name].shape, output_name

    def __call__(self, videos: np.ndarray | tf.Tensor) -> tf.Tensor:
        """Computes the features of videos, with FVD's preprocessing.

        Frames of any aspect ratio are resized to 224x224 with TF1's bilinear interpolation: output pixel i samples
        input position i * H / 224, without antialiasing. The authors' code resizes in [0, 255] and then maps to
        [-1, 1], which is equivalent. Values are not rounded to bytes.

        Args:
          videos: float32 [N, T, H, W, 3], RGB in [-1, 1]. All T frames are used; I3D needs at least 9.
        Returns:
          float32 [N, d]; for the published network, the logits of the 400 classes, averaged over time.
        Raises:
          UserError: values are NaN or outside of [-1, 1], or the network does not support this number of frames.
          ValueError: the shape is wrong.
        """
        videos = tf.convert_to_tensor(videos, tf.float32)
        if not videos.shape.is_compatible_with([None, None, None, None, 3]) or 0 in videos.shape:
            raise ValueError(f"videos of shape {videos.shape}; expected a non-empty [N, T, H, W, 3]")
        if not tf.reduce_all(tf.abs(videos) <= 1 + RANGE_TOLERANCE):  # also False for NaN
            raise UserError("videos contain values that are outside of [-1, 1] or not finite")
        count, num_frames, height, width, _ = videos.shape
        frames = tf.reshape(videos, [-1, height, width, 3])
        resized = tf.compat.v1.image.resize(frames, [SIZE, SIZE])  # TF2's tf.image.resize has half-pixel centres
        inputs = tf.reshape(resized, [count, num_frames, SIZE, SIZE, 3])
        if not self._input_shape.is_compatible_with(inputs.shape):
            raise UserError(f"{self.path}: expected videos of shape {self._input_shape}, got {inputs.shape}")
        try:
            features = self._signature(**{self._input: inputs})[self._output]
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"{self.path}: does not accept {num_frames} frames; I3D needs 9 or more") from error
        # I3D halves time three times and then pools over two steps: 8 frames leave none, and the mean of none is NaN.
        if not tf.reduce_all(tf.math.is_finite(features)):
            raise UserError(f"{self.path}: features of {num_frames} frames are not finite; I3D needs 9 or more")
        return features


def _choose(tensors: Mapping[str, Any], shape: list[int | None]) -> str | None:
    """Returns the name of the only tensor, else `default`; None if it is missing or not float32 of this shape."""
    name = next(iter(tensors)) if len(tensors) == 1 else "default"
    spec = tensors.get(name)
    return name if spec is not None and spec.dtype == tf.float32 and spec.shape.is_compatible_with(shape) else None


def _described(tensors: Mapping[str, Any]) -> str:
    """Formats names, dtypes and shapes: `'rgb': float32 (None, 3)`."""
    return ", ".join(f"{name!r}: {spec.dtype.name} {spec.shape}" for name, spec in sorted(tensors.items())) or "nothing"


def _matters(record: logging.LogRecord) -> bool:
    """Drops the warning about TF1 reference variables: it matters only for training."""
    return "because it is a reference variable" not in record.getMessage()


def _reason(error: Exception) -> str:
    """Formats an error in one line. An OpError's first line only names a graph node, so its type is returned."""
    lines = str(error).splitlines()
    return lines[0] if lines and not isinstance(error, tf.errors.OpError) else type(error).__name__


def _folder(path: str) -> pathlib.Path:
    """Returns the folder of a module; downloads it first if `path` is a URL."""
    if not path.startswith(("https://", "http://")):
        return pathlib.Path(path)
    try:
        import tensorflow_hub
    except ImportError as error:
        raise UserError(
            f"{path}: TensorFlow Hub is not installed; {lanes.install_command('fvd')}, or specify the folder of "
            "the unpacked module"
        ) from error
    try:
        return pathlib.Path(tensorflow_hub.resolve(path))
    except (OSError, ValueError, http.client.HTTPException, tarfile.TarError, tf.errors.OpError) as error:
        raise UserError(f"{path}: TensorFlow Hub cannot download the module: {_reason(error)}") from error
