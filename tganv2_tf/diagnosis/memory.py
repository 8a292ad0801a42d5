"""Whether a run fits into memory, and which settings would."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tganv2_tf.config import Config
from tganv2_tf.diagnosis.environment import (
    Device,
)
from tganv2_tf.diagnosis.findings import NOTE, OK, PROBLEM, Finding, format_bytes

if TYPE_CHECKING:
    from tganv2_tf.training.cost import StepCost

USABLE_MEMORY = 0.85  # fraction of the memory above which a NOTE is given


def severity(needed: float, available: float | None) -> str:
    """Returns OK, NOTE if little memory will be left, or PROBLEM if it does not suffice."""
    if available is None or needed <= USABLE_MEMORY * available:
        return OK
    return NOTE if needed <= available else PROBLEM


def suggest_flags(
    config: Config,
    replicas: int,
    cost: StepCost,
    smallest: StepCost,
    available_bytes: Callable[[int], float],
    recomputed: StepCost | None = None,
) -> str:
    """Advises which flags to change if a step needs too much memory.

    Args:
      config: the run.
      replicas: number of devices that share the batch.
      cost: cost of a step per replica.
      smallest: the same with the smallest possible batch.
      available_bytes: maps the global batch size to the available bytes per device.
      recomputed: as `cost`, with --recompute; None if that is already set.
    """
    from tganv2_tf.training.cost import MEMORY_OVERHEAD

    train, unit = config.train, config.model.pyramid.levels[-1].clip_stride
    parts = train.gradient_accumulation_steps
    clips = train.global_batch_size // replicas // parts  # processed at once
    bytes_per_clip = (cost.device_bytes - smallest.device_bytes) / max(1, clips - unit)
    now = available_bytes(train.global_batch_size)

    def required_bytes(number: int) -> float:
        return smallest.device_bytes + (number - unit) * bytes_per_clip

    # The first split also needs memory for the sum of the gradients.
    accumulator_bytes = MEMORY_OVERHEAD * cost.trained_bytes if parts == 1 else 0
    options = ["--recompute"] if recomputed and recomputed.device_bytes <= now else []
    options += [
        f"--gradient_accumulation_steps={parts * split}"
        for split in range(2, clips // unit + 1)
        if clips % (split * unit) == 0 and required_bytes(clips // split) + accumulator_bytes <= now
    ][:1]
    batches = ((number, number * parts * replicas) for number in range(clips - unit, 0, -unit))
    largest = next((batch for number, batch in batches if required_bytes(number) <= available_bytes(batch)), None)
    options += [f"--global_batch_size={largest}"] if largest else []
    if options:
        return " or ".join(options) + " would fit"
    return "no batch would fit; use narrower networks, a lower --resolution, or a machine with more memory"


def check_memory_of_run(
    config: Config,
    device: Device,
    cost: StepCost,
    pipeline: Callable[[int], int],
    host: int | None,
    step_cost: Callable[[Config, int], StepCost],
) -> Iterator[Finding]:
    """Checks the memory of a training step and of the input pipeline.

    Args:
      config: the run.
      device: devices for training.
      cost: cost of a step per replica.
      pipeline: maps the global batch size to the input pipeline's bytes of main memory.
      host: available bytes of main memory; None if unknown.
      step_cost: computes the cost of a step from a config and the clips per replica; called only if memory is short.
    """
    from tganv2_tf.training.cost import PROCESS_BYTES

    train, usable_host_bytes = config.train, (math.inf if host is None else host) * USABLE_MEMORY
    unit = config.model.pyramid.levels[-1].clip_stride * train.gradient_accumulation_steps  # clips per replica

    def host_bytes(batch: int) -> int:
        return PROCESS_BYTES + pipeline(batch)

    input_bytes, process_bytes = pipeline(train.global_batch_size), host_bytes(train.global_batch_size)
    step_bytes = cost.device_bytes - cost.state_bytes
    step = f"networks and Adam {format_bytes(cost.state_bytes)}, the step {format_bytes(step_bytes)}"
    process = f"input {format_bytes(input_bytes)}, the process itself {format_bytes(PROCESS_BYTES)}"
    if device.kind == "CPU":
        subject, needed, available, detail = "memory", process_bytes + cost.device_bytes, host, f"{step}, {process}"
    else:
        subject, needed, available, detail = "memory of a GPU", cost.device_bytes, device.memory, step
        level, advice = severity(process_bytes, host), ""
        if level != OK:
            smaller = range(train.global_batch_size - unit * device.count, 0, -unit * device.count)
            largest = next((batch for batch in smaller if host_bytes(batch) <= usable_host_bytes), None)
            advice = f"; --global_batch_size={largest} would fit, or" if largest else ";"
            advice += f" lower --shuffle_buffer={config.data.shuffle_buffer}"
        yield Finding(level, "main memory", f"{_usage(process_bytes, host)}: {process}{advice}")
    level, advice = severity(needed, available), ""
    if level != OK:

        def available_bytes(batch: int) -> float:
            on_device = (math.inf if device.memory is None else device.memory) * USABLE_MEMORY
            return usable_host_bytes - host_bytes(batch) if device.kind == "CPU" else on_device

        recomputed = None
        if config.system == "tganv2" and not train.recompute:
            recomputing = dataclasses.replace(config, train=dataclasses.replace(train, recompute=True))
            recomputed = step_cost(recomputing, train.global_batch_size // device.count)
        fits = suggest_flags(config, device.count, cost, step_cost(config, unit), available_bytes, recomputed)
        advice = f"; {fits}"
        if device.kind == "GPU" and train.mixed_precision == "float32":
            advice += "; --mixed_precision=mixed_float16 halves the memory of most activations"
    yield Finding(level, subject, f"{_usage(needed, available)}: {detail}{advice}")


def _usage(needed: float, available: float | None) -> str:
    return f"about {format_bytes(needed)} at the peak" + (
        f" of {format_bytes(available)} free" if available is not None else ""
    )
