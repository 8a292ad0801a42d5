"""Growth: what is trained at which step. A function of the step and the settings alone, so it resumes exactly.

As in progressive GANs of images (Karras et al., arXiv 1710.10196), a number of clips is shown at each resolution, and
then the next one fades in. The level of detail, lod, counts resolutions from the highest, 0. It is whole while one
resolution is trained, and falls linearly to the next whole number during a fade-in.

Phases begin with the first step before which enough clips have been shown. The authors' code changes these values every
four steps instead, and its borders are therefore up to four steps later.
"""

from __future__ import annotations

from typing import NamedTuple

from tganv2_tf.config import Config
from tganv2_tf.options import require
from tganv2_tf.systems.progressive_vgan.config import ModelConfig

STDDEV_GROUP = 4  # clips over which the minibatch's standard deviation is computed


class Phase(NamedTuple):
    """Successive steps with the same networks and batch size.

    Attributes:
      first_step: Its first step, from 0.
      last_step: The step after it; None if it does not end.
      first_clip: Number of real clips shown before it.
      level: The highest level that is trained.
      batch_size: Clips per step, over all replicas.
      border: Number of clips at which it should have begun. Batches may be larger than what was left before it.
      fading: Whether the level is fading in.
    """

    first_step: int
    last_step: int | None
    first_clip: int
    level: int
    batch_size: int
    border: int
    fading: bool

    def clips(self, step: int) -> int:
        """Number of real clips shown before a step of the phase."""
        return self.first_clip + (step - self.first_step) * self.batch_size


def phases(model: ModelConfig) -> list[Phase]:
    """Returns the phases in order. Phases that end before they begin are left out."""
    found, step, clips, border = [], 0, 0, 0
    for number in range(2 * model.last_level + 1):
        level, fading = (number + 1) // 2, number % 2 == 1
        batch = model.batch_size(level)
        end = border + (model.fading_clips if fading else model.stable_clips)
        last = number == 2 * model.last_level
        steps = max(0, -(-(end - clips) // batch))
        if last or steps:
            found.append(Phase(step, None if last else step + steps, clips, level, batch, border, fading))
        step, clips, border = step + steps, clips + steps * batch, end
    return found


def schedule(config: Config) -> list[Phase]:
    """Returns the phases of a run.

    Raises:
      ConfigError: A setting of the training does not fit the phases.
    """
    found, train, model = phases(config.model), config.train, config.model
    largest = max(model.batch_size(level) for level in range(model.last_level + 1))
    valid = f"{largest}, the largest of --batch_sizes at up to {model.resolution} pixels"
    require(train.global_batch_size == largest, "global_batch_size", train.global_batch_size, valid)
    every, borders = train.steps_per_execution, [phase.first_step for phase in found]
    valid = f"a divisor of the first steps of all phases, {', '.join(map(str, borders))}"
    require(all(border % every == 0 for border in borders), "steps_per_execution", every, valid)
    return found


def check_replicas(model: ModelConfig, replicas: int) -> None:
    """Checks that replicas can share every batch, and each share consists of whole groups.

    Raises:
      ConfigError: They cannot.
    """
    for level in range(model.last_level + 1):
        share, rest = divmod(model.batch_size(level), replicas)
        fits = rest == 0 and share % min(share, STDDEV_GROUP) == 0
        valid = (
            f"for {replicas} replicas, multiples of {replicas}, up to {3 * replicas} or of {STDDEV_GROUP * replicas}"
        )
        require(fits, "batch_sizes", model.batch_sizes, valid)


def phase_at(found: list[Phase], step: int) -> Phase:
    """Returns the phase of a step."""
    return next(phase for phase in reversed(found) if phase.first_step <= step)


def lod_at(model: ModelConfig, found: list[Phase], step: int) -> float:
    """Returns the lod of a step; from the last level down, 0 is full size. `Model.lod` is the same as a tensor."""
    phase = phase_at(found, step)
    rest = 1 - (phase.clips(step) - phase.border) / model.fading_clips if phase.fading else 0.0
    return model.last_level - phase.level + rest


def table(config: Config) -> list[str]:
    """Returns the phases as lines of a table."""
    lines = ["phase    resolution  frames  batch  first step  first clip"]
    for phase in schedule(config):
        frames, height, width = config.model.size(phase.level)
        lines.append(
            f"{'fade-in' if phase.fading else 'stable':<7}  {f'{height}x{width}':>10}  {frames:>6}  "
            f"{phase.batch_size:>5}  {phase.first_step:>10,}  {phase.first_clip:>10,}"
        )
    return lines
