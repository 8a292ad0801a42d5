"""Lines of `--dry_run` for systems without levels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tganv2_tf.config import Config

if TYPE_CHECKING:
    from tganv2_tf.models.adversary import Adversary


def parameter_table(model: type[Adversary], config: Config) -> Iterator[str]:
    """Yields the size of the clips, and the number of trained parameters of each network."""
    shape, train = config.model, config.train
    size = f"{shape.resolution}x{shape.resolution}"
    yield f"clips: {shape.num_frames} frames of {size}, {train.global_batch_size} per step"
    yield "network                 parameters"
    for name, network in model.create(config).networks.items():
        count = sum(variable.shape.num_elements() for variable in network.trainable_variables)
        yield f"{name:<22}{count:>12,}"
