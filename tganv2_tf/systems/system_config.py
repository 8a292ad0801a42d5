"""What the settings of every system have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tganv2_tf.pyramid import PyramidSpec


class SystemConfig:
    """Base class of the settings of a system's networks; subclasses are frozen dataclasses.

    Attributes:
      system: Name of the system, as in `--system`.
      resolution: Height and width of the videos in pixels.
      num_frames: Frames of a training clip.
      z_dim: Dimensions of a latent.
      latent: Distribution of the latent, see `models/latents.py`.
      conditional: Whether videos of a given class are generated.
      num_classes: Number of classes of a conditional model; 0 if it is not conditional or the data set is unknown.
      FIXED_LENGTH: Whether generated videos always have `num_frames` frames.
      ARCHITECTURE: Fields that determine the shapes of weights. With --init_from, other fields may differ.
      SCALED_WITH_STEPS: Fields to scale with `train_steps`, when a recipe is trained for another number of steps.
      CHANGEABLE: Fields that may differ when a run is resumed.
      DEFAULTS: Values of flags of other option classes that replace their defaults for this system.
    """

    system: ClassVar[str]
    if TYPE_CHECKING:  # fields or class variables of the subclasses

        def __getattr__(self, name: str) -> Any: ...

    FIXED_LENGTH: ClassVar[bool] = False
    ARCHITECTURE: ClassVar[tuple[str, ...]] = ()
    SCALED_WITH_STEPS: ClassVar[tuple[str, ...]] = ()
    CHANGEABLE: ClassVar[frozenset[str]] = frozenset()
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}

    @property
    def latent(self) -> tuple[tuple[str, int], ...]:
        """Kind and size of each part of the latent. By default it is U(-1, 1)."""
        return (("uniform", self.z_dim),)

    @property
    def pyramid(self) -> PyramidSpec:
        """Sizes of the levels. By default there is one level, the whole clip."""
        return PyramidSpec(self.num_frames, self.resolution, (), ())
