"""C3D, a 3D convolutional network (Tran et al., 2015, arXiv:1412.0767). Its outputs are the input of the metrics.

It has eight 3x3x3 convolutions with ReLU, five max pools, and the fully connected layers fc6, fc7 and fc8. `load_c3d`
loads the weights that the authors of TGANv2 published for the paper's scores, with their preprocessing;
`tganv2_tf.training.classifiers.classifier_training` trains networks of other widths.

Files hold arrays named `conv1a/W` ... `fc8/b`. Convolution kernels are [out, in, T, H, W], dense kernels [out, in]; fc6
reads the last feature map flattened in the order C, T, H, W.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.keras import layers

from tganv2_tf.errors import UserError
from tganv2_tf.storage.files import Path, read_npz

NUM_FRAMES = 16
CONVOLUTIONS = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
POOL_AFTER = {"conv1a": (1, 2, 2), **dict.fromkeys(("conv2a", "conv3b", "conv4b", "conv5b"), (2, 2, 2))}  # T, H, W
TOTAL_STRIDE = 32  # total factor by which the five pools reduce height and width
DROPOUT = 0.5
MIN_DEVIATION = 0.01  # lower bound of a unit's deviation, so that nearly constant units are not amplified
LOGITS_DEVIATION = 0.1  # of the initial logits: all classes start about equally likely
MEAN_SHAPE = (3, NUM_FRAMES, 128, 171)
AUTHORS = "the authors' code"
CENTRE = slice(8, 120)  # rows and columns of the mean that the authors use


@dataclasses.dataclass(frozen=True)
class C3DConfig:
    """Architecture of the network. The defaults match the authors' file.

    Attributes:
      side: height and width in pixels to which the input is resized.
      channels: output channels of the eight convolutions.
      units: units of fc6 and fc7.
      num_classes: units of fc8.
    """

    side: int = 112
    channels: tuple[int, ...] = (64, 128, 256, 256, 512, 512, 512, 512)
    units: tuple[int, int] = (4096, 4096)
    num_classes: int = 101


def resize(videos: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes frames bilinearly, with aligned corners and without antialiasing.

    Args:
      videos: float32 [N, T, H, W, C].
      size: output height and width in pixels.
    Returns:
      float32 [N, T, size, size, C].
    """
    shape = tf.shape(videos)
    frames = tf.reshape(videos, [-1, shape[2], shape[3], videos.shape[4]])
    frames = tf.compat.v1.image.resize(frames, [size, size], align_corners=True)
    return tf.reshape(frames, [-1, shape[1], size, size, videos.shape[4]])


class C3D(tf.keras.Model):
    """C3D, a video classifier (Tran et al., 2015, arXiv:1412.0767, Section 3.3).

    Attributes:
      config: the architecture.
      labels: class names in the order of the probabilities; empty if unknown.
    """

    def __init__(
        self, config: C3DConfig, mean: np.ndarray | None = None, labels: tuple[str, ...] = (), **kwargs: Any
    ) -> None:
        """Creates all weights: He-normal kernels, drawn from Keras' seed, and zero biases.

        Args:
          config: the architecture.
          mean: float32 [16, side, side, 3], subtracted by the authors' preprocessing; None disables this preprocessing.
          labels: class names.
        """
        super().__init__(**kwargs)
        self.config, self.labels = config, labels
        self.mean = None if mean is None else tf.constant(mean)
        self.convolutions = [
            layers.Conv3D(channels, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=name)
            for name, channels in zip(CONVOLUTIONS, config.channels)
        ]
        self.fc6 = layers.Dense(config.units[0], activation="relu", kernel_initializer="he_normal", name="fc6")
        self.fc7 = layers.Dense(config.units[1], activation="relu", kernel_initializer="he_normal", name="fc7")
        self.fc8 = layers.Dense(config.num_classes, kernel_initializer="he_normal", name="fc8")
        for convolution, inputs in zip(self.convolutions, (3, *config.channels)):
            convolution.build([None, None, None, None, inputs])
        self.map_size = config.channels[-1] * (-(-config.side // TOTAL_STRIDE)) ** 2  # one frame is left: 16 / 2^4
        for linear, inputs in ((self.fc6, self.map_size), (self.fc7, config.units[0]), (self.fc8, config.units[1])):
            linear.build([None, inputs])
        self.built = True

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    @tf.autograph.experimental.do_not_convert  # AutoGraph does not support `super()` without arguments
    def __call__(self, videos: tf.Tensor, *args: Any, **kwargs: Any) -> dict[str, tf.Tensor]:
        # Checked here because Keras adds its own lines to errors raised in `call`.
        videos = tf.convert_to_tensor(videos)
        if not videos.shape.is_compatible_with([None, NUM_FRAMES, None, None, 3]):
            raise UserError(
                f"videos of shape {videos.shape}: C3D expects [N, {NUM_FRAMES}, H, W, 3], exactly {NUM_FRAMES} frames"
            )
        if not videos.dtype.is_floating:
            raise TypeError(f"videos of {videos.dtype.name}: C3D expects floats in [-1, 1]")
        return super().__call__(videos, *args, **kwargs)

    def call(self, videos: tf.Tensor, dropout_seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Classifies videos.

        Args:
          videos: float32 [N, 16, H, W, 3], RGB in [-1, 1], of any height and width.
          dropout_seed: int [2], a stateless seed for dropping half of fc6 and fc7 in training; None disables dropout.
        Returns:
          float32: `fc6` and `fc7` after their ReLU, [N, units]; `fc8`, the logits, and `probabilities`, their softmax,
          [N, num_classes].
        Raises:
          UserError: the videos do not have 16 frames.
          TypeError: the videos have an integer dtype.
        """
        fc6 = self.fc6(self._flattened(self.extract(self.preprocess(videos))))
        if dropout_seed is not None:
            fc6 = tf.nn.experimental.stateless_dropout(fc6, DROPOUT, dropout_seed)
        fc7 = self.fc7(fc6)
        if dropout_seed is not None:
            other_seed = tf.random.experimental.stateless_fold_in(dropout_seed, 1)
            fc7 = tf.nn.experimental.stateless_dropout(fc7, DROPOUT, other_seed)
        fc8 = self.fc8(fc7)
        return {"fc6": fc6, "fc7": fc7, "fc8": fc8, "probabilities": tf.nn.softmax(fc8)}

    def preprocess(self, videos: tf.Tensor) -> tf.Tensor:
        """Preprocesses videos: float32 [N, 16, H, W, 3] in [-1, 1] -> [N, 16, side, side, 3].

        With a mean, it follows the authors: BGR in [0, 256], minus the mean. Otherwise, it only resizes.
        """
        resized = resize(tf.ensure_shape(videos, [None, NUM_FRAMES, None, None, 3]), self.config.side)
        return resized if self.mean is None else resized[..., ::-1] * 128.0 + (128.0 - self.mean)

    def extract(self, inputs: tf.Tensor) -> tf.Tensor:
        """Computes the last pool's output: [N, 16, side, side, 3] -> [N, 1, side / 32, side / 32, C], rounded up."""
        features = inputs
        for convolution in self.convolutions:
            features = _pooled(convolution(features), convolution.name)
        return features

    def _flattened(self, features: tf.Tensor) -> tf.Tensor:
        """Flattens the feature map for fc6: [N, 1, H, W, C] -> [N, C * H * W]."""
        return tf.reshape(tf.transpose(features, [0, 4, 1, 2, 3]), [-1, self.map_size])

    def fit_to(self, videos: tf.Tensor) -> None:
        """Rescales the initial weights so that every pre-activation has mean 0 and standard deviation 1 (0.1 in fc8).

        This is data-dependent initialization (Kraehenbuehl et al., 2016, arXiv:1511.06856). Without it, content common
        to all videos, such as a dark background, dominates every feature, small objects contribute almost nothing, and
        the loss may not fall for hundreds of steps.

        Args:
          videos: float32 [N, 16, H, W, 3] in [-1, 1], used for the means and variances.
        """
        features = self.preprocess(videos)
        for convolution in self.convolutions:
            _standardize(convolution, tf.nn.conv3d(features, convolution.kernel, [1] * 5, "SAME"))
            features = _pooled(convolution(features), convolution.name)
        features = self._flattened(features)
        for linear, deviation in ((self.fc6, 1.0), (self.fc7, 1.0), (self.fc8, LOGITS_DEVIATION)):
            _standardize(linear, features @ linear.kernel, deviation)
            features = linear(features)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the weights with the names and layouts of the file format."""
        arrays = {}
        for layer in (*self.convolutions, self.fc6, self.fc7, self.fc8):
            kernel = layer.kernel.numpy()
            arrays[f"{layer.name}/W"] = kernel.transpose(kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))
            arrays[f"{layer.name}/b"] = layer.bias.numpy()
        return arrays

    def assign_arrays(self, arrays: Mapping[str, np.ndarray], path: Path) -> None:
        """Checks all arrays, then assigns the weights. Other arrays in the file are ignored.

        Raises:
          UserError: an array is missing, or has the wrong shape or a non-float dtype; the message names `path`.
        """
        weights = {}
        for layer in (*self.convolutions, self.fc6, self.fc7, self.fc8):
            *positions, inputs, outputs = layer.kernel.shape
            for name, shape in ((f"{layer.name}/W", (outputs, inputs, *positions)), (f"{layer.name}/b", (outputs,))):
                weights[name] = _array(arrays, name, shape, path)
        for layer in (*self.convolutions, self.fc6, self.fc7, self.fc8):
            kernel = weights[f"{layer.name}/W"]
            layer.kernel.assign(kernel.transpose(*range(2, kernel.ndim), 1, 0))
            layer.bias.assign(weights[f"{layer.name}/b"])


def _pooled(features: tf.Tensor, name: str) -> tf.Tensor:
    """Applies the max pool that follows the convolution `name`, if there is one."""
    if name not in POOL_AFTER:
        return features
    pool = POOL_AFTER[name]
    return tf.nn.max_pool3d(features, pool, pool, "SAME")  # pads an odd axis at its end


def _standardize(layer: layers.Layer, values: tf.Tensor, deviation: float = 1.0) -> None:
    """Rescales a layer to outputs of mean 0 and this standard deviation; `values` [..., units] are without bias."""
    mean, variance = tf.nn.moments(values, list(range(len(values.shape) - 1)))
    scale = deviation / tf.maximum(tf.sqrt(variance), MIN_DEVIATION)
    layer.kernel.assign(layer.kernel * scale)
    layer.bias.assign(-mean * scale)


def _array(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"{path}: {name!r} is missing; expected an array of shape {list(shape)}")
    array = arrays[name]
    if array.shape != shape:
        raise UserError(f"{path}: {name!r} has shape {list(array.shape)}; expected {list(shape)}")
    if array.dtype.kind != "f":
        raise UserError(f"{path}: {name!r} has dtype {array.dtype}; expected float32")
    return array


def load_c3d(weights_path: Path, mean_path: Path) -> C3D:
    """Loads the C3D used for the paper's scores, trained on UCF101.

    Args:
      weights_path: the authors' conv3d_deepnetA_ucf.npz.
      mean_path: the authors' mean2.npz, whose `mean` is float32 [3, 16, 128, 171], axes C, T, H, W.
    Returns:
      The network, without class names: the files do not contain them.
    Raises:
      UserError: a file does not exist or is not the authors', or an array is missing or has the wrong shape.
    """
    mean = _array(read_npz(mean_path, AUTHORS), "mean", MEAN_SHAPE, mean_path)[:, :, CENTRE, CENTRE]
    arrays = read_npz(weights_path, AUTHORS)
    network = C3D(C3DConfig(), mean.transpose(1, 2, 3, 0).astype(np.float32), name="c3d")
    network.assign_arrays(arrays, weights_path)
    return network
