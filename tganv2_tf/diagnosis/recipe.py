"""Whether a recipe can be trained on this machine, and how long that takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tganv2_tf.config import Config
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.diagnosis.data_set import check_classes, check_lengths, check_shards
from tganv2_tf.diagnosis.environment import (
    Device,
    check_devices,
    check_folder,
    check_memory,
    check_tensorflow,
    check_versions,
)
from tganv2_tf.diagnosis.findings import NOTE, OK, PROBLEM, Finding, format_duration
from tganv2_tf.diagnosis.memory import check_memory_of_run
from tganv2_tf.errors import UserError
from tganv2_tf.runtime import machine

if TYPE_CHECKING:
    from tganv2_tf.training.cost import StepCost

LONG_RUN = 30 * 86400  # seconds


def check_time(config: Config, device: Device, cost: StepCost, throughput: float) -> Finding:
    """Estimates the time of a step and of the run from `throughput`, the measured multiply-adds per second."""
    step = cost.seconds(throughput)
    whole = step * config.train.train_steps
    text = (
        f"about {format_duration(step)} per step, {format_duration(whole)} for "
        f"--train_steps={config.train.train_steps}, estimated from {throughput / 1e9:.0f} billion multiply-adds per "
        f"second, just measured on this {device.kind}"
    )
    if whole <= LONG_RUN:
        return Finding(OK, "time", text)
    advice = (
        "a GPU, a smaller recipe (--flagfile=own_videos.flags, demo.flags)" if device.kind == "CPU" else "more GPUs"
    )
    return Finding(NOTE, "time", f"{text}; faster with {advice} or --r1_every_steps=16")


def check_run_folder(config: Config, class_names: Sequence[str] = ()) -> Finding:
    """Checks whether the run can start or resume in its folder with these classes (if known)."""
    from tganv2_tf.runs import latest_checkpoint
    from tganv2_tf.training.classes import check_classes
    from tganv2_tf.training.compatibility import check_run

    try:
        if class_names:
            check_classes(config, class_names)
        changes = check_run(config)
    except UserError as error:
        return Finding(PROBLEM, "run", str(error))
    folder = config.train.model_dir
    newest = latest_checkpoint(folder) if folder else None
    if newest is None:
        return Finding(OK, "run", "new")
    changed = f"; changed: {', '.join(changes)}" if changes else ""
    return Finding(OK, "run", f"resumes from {newest}{changed}")


def run_checks(config: Config, has_recipe: bool) -> Iterator[Finding]:
    """Runs all checks, the fast ones first.

    Args:
      config: the run.
      has_recipe: whether model and training were configured, so that their cost is estimated.
    """
    yield from check_versions()
    memory = machine.memory()
    yield check_memory(memory)
    shards, manifest = check_shards(config.model, config.data)
    yield shards
    if manifest is not None:
        yield from check_classes(manifest, config.model.conditional)
    tensorflow = check_tensorflow()
    yield tensorflow
    if tensorflow.level == PROBLEM:
        return
    if manifest is not None and shards.level != PROBLEM:
        yield from check_lengths(config, manifest)
    devices, device = check_devices(memory)
    yield devices
    if has_recipe:
        yield from check_recipe(config, manifest if shards.level != PROBLEM else None, device, memory)
    else:
        yield check_folder("--model_dir", config.train.model_dir)
        yield Finding(
            OK, "run", "no recipe given; with one, such as --flagfile=demo.flags, its memory and time are estimated"
        )


def check_recipe(
    config: Config, manifest: Manifest | None, device: Device, memory: machine.Memory | None
) -> Iterator[Finding]:
    """Checks whether the data match the recipe, and whether the machine can run it, given the cost of a step."""
    from tganv2_tf.data.checks import load_manifest
    from tganv2_tf.training import cost
    from tganv2_tf.training.distribution import per_replica_batch_size
    from tganv2_tf.training.loop import with_classes

    if config.train.distribution == "one_device":
        device = dataclasses.replace(device, count=1)
    elif config.train.distribution in ("multi_worker", "ray"):
        yield Finding(NOTE, "recipe", "estimated as if this machine trained alone, with the whole batch")
    try:
        if manifest is not None:
            config = with_classes(config, load_manifest(config.model, config.data))
        share = per_replica_batch_size(config, device.count)
    except UserError as error:
        yield Finding(PROBLEM, "recipe", str(error))
        return
    yield check_run_folder(config, manifest.labels if manifest else ())
    if config.model.conditional and not config.model.num_classes:
        yield Finding(NOTE, "recipe", "memory and time depend on the classes: set --data_dir or --num_classes")
        return
    step, train = cost.step_cost(config, share), config.train
    snapshots = train.train_steps // train.keep_checkpoint_every_steps if train.keep_checkpoint_every_steps else 0
    newest = (train.keep_checkpoints + 1) * step.state_bytes  # a new one is written before the oldest is deleted
    yield check_folder("--model_dir", train.model_dir, newest, newest + snapshots * step.state_bytes)
    host = memory.available if memory else None

    def pipeline(batch_size: int) -> int:
        return 0 if manifest is None else cost.pipeline_bytes(config, manifest, batch_size)

    yield from check_memory_of_run(config, device, step, pipeline, host, cost.step_cost)
    throughput = cost.measure_throughput(device.kind, train.mixed_precision.removeprefix("mixed_"))
    yield check_time(config, device, step, throughput)
