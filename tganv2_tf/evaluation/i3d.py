"""I3D, the network whose features FVD compares.

FVD (Unterthiner et al., 2018, arXiv:1812.01717) is the Frechet distance of the logits of I3D (Carreira & Zisserman,
2017, arXiv:1705.07750), trained on Kinetics-400. Figures can be compared only where they come from the same network,
https://tfhub.dev/deepmind/i3d-kinetics-400/1, and the same preprocessing, which is that of the authors' code here.
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

from tganv2_tf import lanes
from tganv2_tf.data.manifest import folder_checksum
from tganv2_tf.errors import UserError

SIZE = 224  # pixels
SIGNATURES = ("default", "serving_default")  # of modules in TF1 hub format, and of other SavedModels
RANGE_TOLERANCE = 1e-3  # beyond [-1, 1], as in the authors' code of FVD


def load_i3d(path: str) -> I3D:
    """Loads the network.

    Args:
      path: a folder, the unpacked TF-Hub module or another SavedModel; or the URL of a TF-Hub module, which TensorFlow
        Hub downloads on first use, and keeps in TFHUB_CACHE_DIR where that is set.
    Raises:
      UserError: no SavedModel there, a damaged one, or one that `I3D` cannot use; or TensorFlow Hub is needed and not
        installed, or cannot fetch the module.
    """
    folder = _folder(path)
    if not any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise UserError(f"{path}: no SavedModel there; name the folder of the unpacked module, with saved_model.pb")
    # A module in TF1 hub format may hold a second graph for training; the one for inference has no tag.
    tags: list[str] | None = [] if (folder / "tfhub_module.pb").is_file() else None
    tf.get_logger().addFilter(_matters)
    try:
        module = tf.saved_model.load(str(folder), tags)
    except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(f"{path}: its SavedModel cannot be loaded, perhaps not whole: {_reason(error)}") from error
    finally:
        tf.get_logger().removeFilter(_matters)
    return I3D(path, module, folder_checksum(folder))


class I3D:
    """Features of videos, from a network that the user supplies.

    Attributes:
      path: where it came from.
      checksum: `sha256:` and the hexadecimal digest of all names and contents in the module's folder; the same network
        has the same one in any place.
    """

    def __init__(self, path: str, module: Any, checksum: str) -> None:
        """Finds input and output.

        Args:
          path: where the module came from.
          module: a loaded SavedModel. Its signature `default`, else `serving_default`, takes float32
            [N, T, 224, 224, 3] in [-1, 1] and gives float32 [N, d], called `default` if there are other outputs.
          checksum: of the module.
        Raises:
          UserError: it has no such signature.
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
                f"{path}: signature {name!r} takes {_described(inputs)}; expected one float32 [N, T, {SIZE}, {SIZE}, 3]"
            )
        output_name = _choose(outputs, [None, None])
        if output_name is None:
            raise UserError(
                f"{path}: signature {name!r} gives {_described(outputs)}; expected a float32 [N, d], called 'default' "
                "if there are others"
            )
        self._input, self._input_shape, self._output = input_name, inputs[input_name].shape, output_name

    def __call__(self, videos: np.ndarray | tf.Tensor) -> tf.Tensor:
        """The features of videos, after FVD's preprocessing.

        That resizes whole frames to 224x224, whatever their shape, with TF1's bilinear interpolation: output pixel i
        stands at i * H / 224 of the input, and there is no filter against aliasing. The authors' code does so in 0..255
        and maps to [-1, 1] afterwards, which is the same. Values are not rounded to bytes.

        Args:
          videos: float32 [N, T, H, W, 3], RGB in [-1, 1]. All T frames are used; I3D needs 9 or more.
        Returns:
          float32 [N, d]; of the published network the logits of the 400 classes, averaged over time.
        Raises:
          UserError: values outside of [-1, 1] or that are not numbers, or no features for so many frames.
          ValueError: another shape.
        """
        videos = tf.convert_to_tensor(videos, tf.float32)
        if not videos.shape.is_compatible_with([None, None, None, None, 3]) or 0 in videos.shape:
            raise ValueError(f"videos of shape {videos.shape}; expected [N, T, H, W, 3], none of them 0")
        if not tf.reduce_all(tf.abs(videos) <= 1 + RANGE_TOLERANCE):  # NaN is not, either
            raise UserError("videos with values outside of [-1, 1], or that are no numbers")
        count, num_frames, height, width, _ = videos.shape
        frames = tf.reshape(videos, [-1, height, width, 3])
        resized = tf.compat.v1.image.resize(frames, [SIZE, SIZE])  # TF2's tf.image.resize has half-pixel centres
        inputs = tf.reshape(resized, [count, num_frames, SIZE, SIZE, 3])
        if not self._input_shape.is_compatible_with(inputs.shape):
            raise UserError(f"{self.path}: takes videos of shape {self._input_shape}, but these are {inputs.shape}")
        try:
            features = self._signature(**{self._input: inputs})[self._output]
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"{self.path}: cannot take videos of {num_frames} frames; I3D needs 9 or more") from error
        # I3D halves time three times and then pools over two steps: of 8 frames nothing is left, whose mean is NaN.
        if not tf.reduce_all(tf.math.is_finite(features)):
            raise UserError(f"{self.path}: NaN or infinity for videos of {num_frames} frames; I3D needs 9 or more")
        return features


def _choose(tensors: Mapping[str, Any], shape: list[int | None]) -> str | None:
    """The name of the only tensor, or else `default`; None where it is not there, or not float32 of this shape."""
    name = next(iter(tensors)) if len(tensors) == 1 else "default"
    spec = tensors.get(name)
    return name if spec is not None and spec.dtype == tf.float32 and spec.shape.is_compatible_with(shape) else None


def _described(tensors: Mapping[str, Any]) -> str:
    """Names, types and shapes: `'rgb': float32 (None, 3)`."""
    return ", ".join(f"{name!r}: {spec.dtype.name} {spec.shape}" for name, spec in sorted(tensors.items())) or "nothing"


def _matters(record: logging.LogRecord) -> bool:
    """False for the advice to rebuild a module whose variables are of TF1's kind: they work, and nobody trains them."""
    return "because it is a reference variable" not in record.getMessage()


def _reason(error: Exception) -> str:
    """An error in one line. The first line of an OpError only says where in the graph it was, so its kind must do."""
    lines = str(error).splitlines()
    return lines[0] if lines and not isinstance(error, tf.errors.OpError) else type(error).__name__


def _folder(path: str) -> pathlib.Path:
    """The folder of a module, after a download where `path` is a URL."""
    if not path.startswith(("https://", "http://")):
        return pathlib.Path(path)
    try:
        import tensorflow_hub
    except ImportError as error:
        raise UserError(
            f"{path}: TensorFlow Hub is not installed; {lanes.install_command('fvd')}, or name the folder of the "
            "unpacked module"
        ) from error
    try:
        return pathlib.Path(tensorflow_hub.resolve(path))
    except (OSError, ValueError, http.client.HTTPException, tarfile.TarError, tf.errors.OpError) as error:
        raise UserError(f"{path}: TensorFlow Hub cannot fetch the module: {_reason(error)}") from error
