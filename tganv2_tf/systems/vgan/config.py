"""Settings of VGAN (Vondrick, Pirsiavash & Torralba, arXiv 1609.02612), by default those of cvondrick/videogan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from tganv2_tf.options import option, require
from tganv2_tf.systems.system_config import SystemConfig

SCALE = 16  # pixels, and frames, per position of the smallest maps: four doublings


@dataclasses.dataclass(frozen=True)
class ModelConfig(SystemConfig):
    """VGAN: networks and loss (--system=vgan)."""

    system: ClassVar[str] = "vgan"
    FIXED_LENGTH: ClassVar[bool] = True
    ARCHITECTURE: ClassVar[tuple[str, ...]] = (
        *("resolution", "num_frames", "z_dim", "generator_channels", "discriminator_channels"),
    )
    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"mask_weight", "gradients_through_updated_weights"})
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "global_batch_size": 64,
        "generator_learning_rate": 2e-4,
        "discriminator_learning_rate": 2e-4,
        "learning_rate_decay": "none",
        "adam_beta1": 0.5,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "ema_decay": 0.0,
        "flip": False,
    }
    conditional: ClassVar[bool] = False
    num_classes: ClassVar[int] = 0

    resolution: int = option("height and width of the videos in pixels", 64)
    num_frames: int = option("frames of a training clip, and of every generated video", 32)
    z_dim: int = option("dimensions of the latent", 100)
    generator_channels: tuple[int, ...] = option("channels of both streams' layers but the last", (512, 256, 128, 64))
    discriminator_channels: tuple[int, ...] = option(
        "channels of the discriminator's layers but the last", (64, 128, 256, 512)
    )
    mask_weight: float = option("weight of the mean of the foreground's mask in the generator's loss", 0.1)
    gradients_through_updated_weights: bool = option(
        "pass the generator's gradient through the discriminator's weights after their update and the activations "
        "before it, as the authors' code does; else both are those before the update",
        True,
    )

    def __post_init__(self) -> None:
        for name in ("resolution", "num_frames"):
            value = getattr(self, name)
            require(value >= SCALE and value % SCALE == 0, name, value, f"a multiple of {SCALE}")
        require(self.z_dim >= 1, "z_dim", self.z_dim, "a whole number of at least 1")
        for name in ("generator_channels", "discriminator_channels"):
            channels = getattr(self, name)
            require(len(channels) == 4 and min(channels) >= 1, name, channels, "four positive numbers")
        require(self.mask_weight >= 0, "mask_weight", self.mask_weight, "a number of at least 0")

    @property
    def latent(self) -> tuple[tuple[str, int], ...]:
        return (("normal", self.z_dim),)
