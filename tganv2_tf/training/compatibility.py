"""Checks whether a run can be resumed with a config; initialises networks from another run."""

from __future__ import annotations

import dataclasses
from typing import Any

from tganv2_tf.config import Config
from tganv2_tf.errors import ConfigError
from tganv2_tf.models.adversary import Adversary
from tganv2_tf.pretrained import read, readable
from tganv2_tf.runs import BEST_DIR, SNAPSHOT_DIR, Run


def check_run(config: Config) -> list[str]:
    """Checks that training can resume from the checkpoints in `model_dir`, if any, with this config.

    Returns:
      The permitted changes of settings, as `--name=value (the run has value)`.
    Raises:
      ConfigError: A setting differs that cannot change; the message names all of them.
    """
    run = Run.open(config.train.model_dir)
    if not run.exists or not run.checkpoint:
        return []
    old = run.config
    if config.system != old.system:
        raise ConfigError(
            f"{run.folder} contains a run of --system={old.system}, not {config.system}; choose another --model_dir"
        )
    refused = differences(config.model, old.model, "the run has")
    allowed = {name: refused.pop(name) for name in config.model.CHANGEABLE & set(refused)}
    allowed |= differences(config.data, old.data, "the run has")
    allowed.pop("data_prep", None)  # affects only messages
    for name, text in differences(config.train, old.train, "the run has").items():
        now, before = getattr(config.train, name), getattr(old.train, name)
        if (
            name == "n_dis"  # learning rate schedules count updates
            or (name == "ema_decay" and bool(now) != bool(before))  # averaged generator exists or not
            or (name == "mixed_precision" and "mixed_float16" in (now, before))  # loss scale exists or not
        ):
            refused[name] = text
        else:
            allowed[name] = text
    allowed |= differences(config.eval, old.eval, "the run has")
    if refused:
        raise ConfigError(
            f"{run.folder} contains another run: {', '.join(refused.values())}; choose another --model_dir"
        )
    return list(allowed.values())


def differences(now: Any, before: Any, label: str) -> dict[str, str]:
    """Returns `--name=value (label value)` for each field that differs between two configs, keyed by name."""

    def shown(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return {
        field.name: f"--{field.name}={shown(getattr(now, field.name))} ({label} {shown(getattr(before, field.name))})"
        for field in dataclasses.fields(now)
        if getattr(now, field.name) != getattr(before, field.name)
    }


def check_source(config: Config) -> Run:
    """Checks that the networks of a new run can be initialised from `init_from`, and returns that run.

    Raises:
      ConfigError: There is no checkpoint, or shapes of networks differ; the message names the fields.
    """
    name = f"--init_from={config.train.init_from}"
    source = Run.open(config.train.init_from)
    if source.checkpoint is None:
        raise ConfigError(
            f"{name}: no checkpoint found; valid: the folder of a run, RUN/{BEST_DIR}, or RUN/{SNAPSHOT_DIR}/ckpt-STEP"
        )
    if source.config.system != config.system:
        raise ConfigError(f"{name}: a run of --system={source.config.system}, not {config.system}")
    other = differences(config.model, source.config.model, "it has")
    shapes = [text for field, text in other.items() if field in config.model.ARCHITECTURE]
    if shapes:
        raise ConfigError(f"{name}: its networks have different shapes: {', '.join(shapes)}")
    return source


def initialize(model: Adversary) -> str:
    """Initialises the networks of a new run from `init_from`; optimisers and step are not read.

    Returns:
      The prefix of the checkpoint.
    Raises:
      ConfigError: See `check_source`.
      UserError: The checkpoint is damaged.
    """
    checkpoint = check_source(model.config).checkpoint
    assert checkpoint is not None
    networks = model.networks
    if model.ema_generator is not model.generator:
        networks["ema_generator"] = model.ema_generator
    with readable(checkpoint) as local:
        for name, network in networks.items():
            # One at a time: without averaging, a checkpoint has one network under two of the names.
            read(local, **{name: network})
    return checkpoint
