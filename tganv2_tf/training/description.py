"""Describes a run before it starts: classes, levels, devices, settings and data."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence

from absl import logging

from tganv2_tf.config import Config
from tganv2_tf.data.checks import load_manifest
from tganv2_tf.data.lengths import describe_too_short
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import ConfigError
from tganv2_tf.systems import model_class
from tganv2_tf.training.distribution import per_replica_batch_size


def with_classes(config: Config, manifest: Manifest) -> Config:
    """Returns the config, with the data set's number of classes if the model is conditional."""
    if not config.model.conditional:
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=len(manifest.labels)))


def warn_of_empty_classes(config: Config, manifest: Manifest) -> None:
    """Logs a warning with the classes of a conditional model that have no videos."""
    if config.model.conditional and manifest.empty_classes:
        logging.warning("%s: %s; the model learns nothing about them.", config.data.data_dir, manifest.empty_classes)


def describe(config: Config, devices: Sequence[str], workers: int) -> Iterator[str]:
    """Yields the lines of `--dry_run`: table of levels, devices of a worker, changed settings and, if set, the data.

    Raises:
      ConfigError: A conditional model has no classes, or the devices cannot share the batch.
      UserError: The data cannot be used. Lines that do not depend on the data are yielded first.
    """
    if config.data.data_dir and config.model.conditional:
        manifest = load_manifest(config.model, config.data)
        warn_of_empty_classes(config, manifest)
        config = with_classes(config, manifest)
    if config.model.conditional and not config.model.num_classes:
        raise ConfigError("--num_classes=0: the number of classes is unknown without --data_dir; set one of them")
    share = per_replica_batch_size(config, workers * len(devices))
    yield from model_class(config.system).describe(config)
    worker_note = f" of this worker (of {workers})" if workers > 1 else ""
    yield f"devices{worker_note}: {', '.join(devices)}; {share} clips per step on each"
    yield "settings other than the defaults (--print_config shows all):"
    flags = " ".join(config.flags()) or "none"
    yield from textwrap.wrap(flags, 120, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    if config.data.data_dir:
        manifest = load_manifest(config.model, config.data)
        yield f"data: {manifest.num_videos} videos in {config.data.data_dir}"
        yield from filter(None, [describe_too_short(manifest, config.data, config.model.num_frames)])
