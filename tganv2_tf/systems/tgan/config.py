"""Settings of TGAN (Saito, Matsumoto & Saito, arXiv 1611.06624).

The defaults are those of the authors' recipe for UCF101, `ucf101_wgan_svd_zdim-100_no-beta.yml` of pfnet-research/tgan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from tganv2_tf.options import option, require
from tganv2_tf.systems.system_config import SystemConfig

SCALE = 16  # pixels per position of the smallest maps: four doublings


@dataclasses.dataclass(frozen=True)
class ModelConfig(SystemConfig):
    """TGAN: networks and clipping of singular values (--system=tgan)."""

    system: ClassVar[str] = "tgan"
    FIXED_LENGTH: ClassVar[bool] = True
    ARCHITECTURE: ClassVar[tuple[str, ...]] = (
        *("resolution", "z_dim", "fast_z_dim", "temporal_channels", "image_channels", "discriminator_width"),
    )
    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"clip_every_steps", "rmsprop_decay", "rmsprop_epsilon"})
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "global_batch_size": 32,
        "generator_learning_rate": 5e-5,
        "discriminator_learning_rate": 5e-5,
        "learning_rate_decay": "none",
        "ema_decay": 0.0,
        "flip": False,
        "normalization": "official",
    }
    num_frames: ClassVar[int] = 16
    conditional: ClassVar[bool] = False
    num_classes: ClassVar[int] = 0

    resolution: int = option("height and width of the videos in pixels", 64)
    z_dim: int = option("dimensions of the latent", 100)
    fast_z_dim: int = option("dimensions of the latent that the temporal generator makes for each frame", 100)
    temporal_channels: tuple[int, ...] = option(
        "channels of the temporal generator's layers but the last", (512, 256, 128, 128)
    )
    image_channels: int = option(
        "channels of the image generator's first map; each of its four layers halves them", 512
    )
    discriminator_width: int = option("channels of the discriminator's first layer; the next three double them", 64)
    clip_every_steps: int = option("steps between two clippings of the discriminator's singular values", 5)
    rmsprop_decay: float = option("decay of RMSprop's mean of squares", 0.99)
    rmsprop_epsilon: float = option("RMSprop's epsilon, added to the root", 1e-8)

    def __post_init__(self) -> None:
        valid = f"a multiple of {SCALE}"
        require(self.resolution >= SCALE and self.resolution % SCALE == 0, "resolution", self.resolution, valid)
        for name in ("z_dim", "fast_z_dim", "discriminator_width", "clip_every_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        channels = self.temporal_channels
        require(len(channels) == 4 and min(channels) >= 1, "temporal_channels", channels, "four positive numbers")
        require(
            self.image_channels >= SCALE and self.image_channels % SCALE == 0,
            "image_channels",
            self.image_channels,
            f"a multiple of {SCALE}",
        )
        require(0 <= self.rmsprop_decay < 1, "rmsprop_decay", self.rmsprop_decay, "at least 0 and below 1")
        require(self.rmsprop_epsilon > 0, "rmsprop_epsilon", self.rmsprop_epsilon, "a number above 0")
