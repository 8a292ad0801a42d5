"""Settings of TGANv2's networks (Saito & Saito, arXiv 1811.09245)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tganv2_tf.options import option, require
from tganv2_tf.pyramid import FIRST_LEVEL_BLOCKS, PyramidSpec
from tganv2_tf.systems.system_config import SystemConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig(SystemConfig):
    """TGANv2: shape of the networks."""

    system: ClassVar[str] = "tganv2"
    ARCHITECTURE: ClassVar[tuple[str, ...]] = (
        "resolution",
        "z_dim",
        "lstm_channels",
        "lstm_layers",
        "self_modulation",
        "up_channels",
        "discriminator_channels",
        "spectral_norm",
        "conditional",
        "num_classes",
    )

    resolution: int = option("height and width of the videos in pixels", 192)
    num_frames: int = option("frames of a training clip", 16)
    z_dim: int = option("dimensions of the latent", 256)
    frame_strides: tuple[int, ...] = option(
        "frame stride of the subsampling layer after each level but the last", (2, 2, 2)
    )
    batch_strides: tuple[int, ...] = option(
        "batch stride of the subsampling layer after each level but the last", (2, 2, 2)
    )
    lstm_channels: int = option("channels of the base map and of the convolutional LSTM", 1024)
    lstm_layers: int = option("number of stacked convolutional LSTMs", 1)
    lstm_forget_bias: float = option("initial bias of the forget gate; above 0 the latent lasts for more frames", 0.0)
    self_modulation: bool = option(
        "compute scale and shift of the generator's batch norms from the latent (arXiv 1810.01365); not in the paper",
        False,
    )
    up_channels: tuple[int, ...] = option(
        "channels of each up block: three at level 1, one per later level", (512, 256, 128, 64, 32, 32)
    )
    discriminator_channels: tuple[int, ...] = option(
        "channels of each residual block of a discriminator", (64, 128, 256, 512, 1024)
    )
    spectral_norm: bool = option("divide the discriminators' weights by their largest singular value", True)
    grow_length_one_axes: bool = option(
        "pad length-one axes before pooling, as the authors' code does, probably by mistake", False
    )
    conditional: bool = option("generate videos of a given class; the data set must have labels", False)
    num_classes: int = option("number of classes of a conditional model; 0 = that of the data set", 0)

    def __post_init__(self) -> None:
        # With one frame the recurrence would not run, and its weights would have no gradient.
        require(self.num_frames >= 2, "num_frames", self.num_frames, "a whole number of at least 2")
        for name in ("z_dim", "lstm_channels", "lstm_layers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        blocks = self.pyramid.num_up_blocks
        require(
            len(self.up_channels) == blocks and min(self.up_channels) >= 1,
            "up_channels",
            self.up_channels,
            f"{blocks} positive numbers: {FIRST_LEVEL_BLOCKS} for level 1, one for each later level",
        )
        require(
            bool(self.discriminator_channels) and min(self.discriminator_channels) >= 1,
            "discriminator_channels",
            self.discriminator_channels,
            "at least one positive number",
        )
        require(
            self.num_classes >= 0 and (self.conditional or not self.num_classes),
            "num_classes",
            self.num_classes,
            "a whole number of at least 0" if self.conditional else "0 without --conditional",
        )

    @property
    def pyramid(self) -> PyramidSpec:
        """Sizes of the levels."""
        return PyramidSpec(self.num_frames, self.resolution, self.frame_strides, self.batch_strides)
