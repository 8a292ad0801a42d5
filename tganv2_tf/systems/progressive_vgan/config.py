"""Settings of ProgressiveVGAN (Acharya, Huang, Paudel & Van Gool, arXiv 1810.02419).

The defaults are those of the authors' released training code (musikisomorphie/swd, `progressive_training`) at 128x128
pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from tganv2_tf.options import option, require
from tganv2_tf.systems.system_config import SystemConfig

BASE = 4  # height and width of the smallest maps


@dataclasses.dataclass(frozen=True)
class ModelConfig(SystemConfig):
    """ProgressiveVGAN: networks, growth and loss (--system=progressive_vgan).

    Levels are counted from 0, at 4x4 pixels; each doubles height and width. Odd levels, at 8, 32, 128, ... pixels, also
    double the frames. The level of 4x4 pixels has `num_frames` / 2^doublings frames: 4 of 32 at 128 or 256 pixels, and
    4 of 16 at 32 pixels.
    """

    system: ClassVar[str] = "progressive_vgan"
    FIXED_LENGTH: ClassVar[bool] = True
    ARCHITECTURE: ClassVar[tuple[str, ...]] = (
        *("resolution", "num_frames", "z_dim", "fmap_base", "fmap_max", "objective"),
    )
    SCALED_WITH_STEPS: ClassVar[tuple[str, ...]] = ("stable_clips", "fading_clips")
    # What changes the lod of a step may not differ when a run is resumed.
    CHANGEABLE: ClassVar[frozenset[str]] = frozenset(
        {
            *("wgan_penalty_weight", "drift_weight", "swl_penalty_weight", "feature_penalty_weight"),
            *("feature_penalty_target", "feature_penalty_of_value", "rate_factor_at_128"),
        }
    )
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "train_steps": 1_181_250,  # 12 million clips
        "global_batch_size": 32,
        "generator_learning_rate": 1e-3,
        "discriminator_learning_rate": 1e-3,
        "learning_rate_decay": "none",
        "adam_beta1": 0.0,
        "adam_beta2": 0.99,
        "adam_epsilon": 1e-8,
        "ema_decay": 0.999,
        "flip": True,
    }
    conditional: ClassVar[bool] = False
    num_classes: ClassVar[int] = 0

    resolution: int = option("height and width of the videos in pixels", 128)
    num_frames: int = option("frames of a training clip, and of every generated video", 32)
    z_dim: int = option("dimensions of the latent", 128)
    fmap_base: int = option("channels at 4x4 pixels are half of this, and halve with each level; see --fmap_max", 1024)
    fmap_max: int = option("maximum number of channels", 128)
    stable_clips: int = option("real clips shown at each resolution between two fade-ins", 600_000)
    fading_clips: int = option("real clips shown while a resolution fades in", 600_000)
    batch_sizes: tuple[int, ...] = option(
        "clips per step at 4, 8, 16, ... pixels, over all replicas; the last one is also that of higher resolutions",
        (32, 32, 16, 16, 8, 8, 4),
    )
    rate_factor_at_128: float = option("factor of both learning rates while clips have 128x128 pixels", 1.5)
    objective: str = option(
        "adversarial loss: wgan_gp = Wasserstein with gradient penalty; swl = sliced Wasserstein (arXiv 1706.02631)",
        "wgan_gp",
        ("wgan_gp", "swl"),
    )
    wgan_penalty_weight: float = option("weight of the gradient penalty of wgan_gp", 10.0)
    drift_weight: float = option("weight of the mean square of the real clips' scores, of wgan_gp", 0.001)
    swl_penalty_weight: float = option("weight of the gradient penalty of swl", 50.0)
    feature_penalty_weight: float = option("weight of the penalty of features, of swl", 10.0)
    feature_penalty_target: float = option("value at which the penalty of features is 0", 0.01)
    feature_penalty_of_value: bool = option(
        "penalise a function of the projected features' values, as the authors' code does; else the derivative of "
        "their nonlinearity",
        True,
    )

    def __post_init__(self) -> None:
        power = self.resolution >= 2 * BASE and self.resolution & (self.resolution - 1) == 0
        require(power, "resolution", self.resolution, f"a power of 2 of at least {2 * BASE}")
        divisor = 2**self.doublings
        frames = self.num_frames
        require(frames >= 1 and frames % divisor == 0, "num_frames", frames, f"a multiple of {divisor}")
        for name in ("z_dim", "fmap_max"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        least = 2 ** (self.last_level + 1)  # one channel at the last level
        require(self.fmap_base >= least, "fmap_base", self.fmap_base, f"a whole number of at least {least}")
        for name in ("stable_clips", "fading_clips"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a whole number of at least 0")
        sizes = self.batch_sizes
        require(bool(sizes) and min(sizes) >= 1, "batch_sizes", sizes, "one or more positive numbers")
        require(self.rate_factor_at_128 > 0, "rate_factor_at_128", self.rate_factor_at_128, "a number above 0")
        for name in ("wgan_penalty_weight", "drift_weight", "swl_penalty_weight", "feature_penalty_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a number of at least 0")

    @property
    def latent(self) -> tuple[tuple[str, int], ...]:
        return (("normal", self.z_dim),)

    @property
    def last_level(self) -> int:
        """Number of the level at full size."""
        return (self.resolution // BASE).bit_length() - 1

    @property
    def doublings(self) -> int:
        """Number of levels that double the frames."""
        return (self.last_level + 1) // 2

    def factors(self, level: int) -> tuple[int, int, int]:
        """By what a level, from 1, enlarges the clips of the level before it, in T, H and W."""
        return (2 if level % 2 else 1, 2, 2)

    def size(self, level: int) -> tuple[int, int, int]:
        """T, H and W of the clips of a level."""
        frames = self.num_frames // 2**self.doublings * 2 ** ((level + 1) // 2)
        return (frames, BASE * 2**level, BASE * 2**level)

    def channels(self, level: int) -> int:
        """Channels of the maps of a level; at 4x4 pixels also `channels(-1)`, those before and after them."""
        return max(1, min(self.fmap_base // 2 ** (level + 1), self.fmap_max))

    def batch_size(self, level: int) -> int:
        """Clips per step at a level, over all replicas."""
        return self.batch_sizes[min(level, len(self.batch_sizes) - 1)]
