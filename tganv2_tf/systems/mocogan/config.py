"""Settings of MoCoGAN (Tulyakov, Liu, Yang & Kautz, arXiv 1707.04993).

The defaults are those that the authors gave for other data sets, without categories. They published none for UCF101.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from tganv2_tf.options import option, require
from tganv2_tf.systems.system_config import SystemConfig

SCALE = 16  # pixels per position of the smallest maps: four halvings
LOST_FRAMES = 12  # by the four layers of kernel 4, without padding over time, of the discriminator of videos
KINDS = ("patch", "full")  # of discriminators
DISCRIMINATORS = ("image_discriminator", "video_discriminator")


@dataclasses.dataclass(frozen=True)
class ModelConfig(SystemConfig):
    """MoCoGAN: networks, latents and losses (--system=mocogan).

    Videos may have a category. There are three cases:
    - None (the default).
    - Latent categories, `num_categories`: the category is drawn uniformly and is a part of the latent. With `infogan`,
      the discriminator of videos has logits of categories, and the generator's loss has their cross-entropy with the
      category drawn. As in the authors' code with --use_infogan alone, nothing trains these logits: no real video has a
      latent category, and the discriminator's loss has no such term.
    - Classes of the data set, `conditional`: the category is the label that is passed to the generator. In training it
      is drawn uniformly. The discriminator of videos learns the classes from the real videos. These are the authors'
      --use_categories and --use_infogan together.

    Attributes:
      latent: The content, the initial state of the motion, the noise of each frame of a training clip, all N(0, 1), and
        the one-hot latent category if there are any. Noise of later frames is derived from the bits of the latent.
    """

    system: ClassVar[str] = "mocogan"
    ARCHITECTURE: ClassVar[tuple[str, ...]] = (
        *("resolution", "num_frames", "content_dim", "motion_dim", "num_categories", "infogan", "conditional"),
        *("num_classes", "generator_width", "image_discriminator", "image_discriminator_width"),
        *("video_discriminator", "video_discriminator_width"),
    )
    CHANGEABLE: ClassVar[frozenset[str]] = frozenset({"noise_sigma", "weight_decay"})
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
        "frame_step": 2,
    }

    resolution: int = option("height and width of the videos in pixels", 64)
    num_frames: int = option("frames of a training clip; generated videos may have any number", 16)
    content_dim: int = option("dimensions of the latent of the content, which is equal in all frames", 50)
    motion_dim: int = option("dimensions of the noise of each frame, and of the state of the recurrence", 10)
    num_categories: int = option("latent categories, drawn at random; 0 = none; for classes use --conditional", 0)
    infogan: bool = option("if there are categories, penalise generated videos in which they are not recognised", True)
    conditional: bool = option("generate videos of a given class; the data set must have labels", False)
    num_classes: int = option("number of classes of a conditional model; 0 = that of the data set", 0)
    generator_width: int = option("channels of the image generator's last hidden layer; the first has 8 times more", 64)
    image_discriminator: str = option(
        "patch = logits of 4x4 patches of a frame of 64x64 pixels, full = one logit per frame", "patch", KINDS
    )
    image_discriminator_width: int = option("channels of its first layer; each of the next doubles them", 64)
    video_discriminator: str = option(
        "patch = logits of 4x4x4 patches of a clip of 16 frames of 64x64 pixels, full = one logit per clip",
        "full",
        KINDS,
    )
    video_discriminator_width: int = option("channels of its first layer; each of the next doubles them", 64)
    noise_sigma: float = option("deviation of the noise on the inputs of the discriminators' layers; 0 = none", 0.1)
    weight_decay: float = option("share of each weight that is added to its gradient, before Adam", 1e-5)
    image_clips: int = option(
        "clips of the global batch of which the discriminator of images sees one frame; it sees as many generated "
        "frames, and the discriminator of videos gets the rest of the batch; each replica divides its share "
        "likewise; 0 = half of the batch",
        0,
    )

    def __post_init__(self) -> None:
        valid = f"a multiple of {SCALE}"
        require(self.resolution >= SCALE and self.resolution % SCALE == 0, "resolution", self.resolution, valid)
        least = LOST_FRAMES + 1
        require(self.num_frames >= least, "num_frames", self.num_frames, f"a whole number of at least {least}")
        for name in ("content_dim", "motion_dim", *(f"{n}_width" for n in ("generator", *DISCRIMINATORS))):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        for name in ("noise_sigma", "weight_decay", "image_clips"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a number of at least 0")
        require(
            self.num_classes >= 0 and (self.conditional or not self.num_classes),
            "num_classes",
            self.num_classes,
            "a whole number of at least 0" if self.conditional else "0 without --conditional",
        )
        require(
            self.num_categories == 0 or (self.num_categories >= 2 and not self.conditional),
            "num_categories",
            self.num_categories,
            "0 with --conditional" if self.conditional else "0 or at least 2",
        )
        require(self.infogan or not self.conditional, "infogan", "false", "true with --conditional")
        recognised = self.conditional or (self.infogan and self.num_categories > 0)
        require(
            self.video_discriminator == "full" or not recognised,
            "video_discriminator",
            self.video_discriminator,
            "full with --conditional, or with --num_categories unless --infogan=false",
        )

    @property
    def categories(self) -> int:
        """Number of categories that the generator distinguishes: classes or latent ones; 0 = none."""
        return self.num_classes if self.conditional else self.num_categories

    @property
    def recognised_categories(self) -> int:
        """Number of categories that the discriminator of videos has logits for."""
        return self.categories if self.infogan else 0

    @property
    def num_normal(self) -> int:
        """Dimensions of the normal part of the latent."""
        return self.content_dim + self.motion_dim * (1 + self.num_frames)

    @property
    def latent(self) -> tuple[tuple[str, int], ...]:
        normal = ("normal", self.num_normal)
        return (normal, ("one_hot", self.num_categories)) if self.num_categories else (normal,)

    @property
    def z_dim(self) -> int:
        """Dimensions of the latent."""
        return self.num_normal + self.num_categories
