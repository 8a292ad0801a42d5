"""Whether the data set fits the recipe."""

from __future__ import annotations

from collections.abc import Iterator

from tganv2_tf.config import Config, DataConfig
from tganv2_tf.data.advice import how_to_make, preparation
from tganv2_tf.data.lengths import describe_too_short
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.diagnosis.findings import NOTE, OK, PROBLEM, Finding, format_bytes
from tganv2_tf.errors import UserError
from tganv2_tf.systems import SystemConfig


def check_shards(model: SystemConfig, data: DataConfig) -> tuple[Finding, Manifest | None]:
    """Describes the data set and checks the sizes of its files. Their contents are not read."""
    command = preparation(model, data)
    if not data.data_dir:
        return Finding(NOTE, "data", f"no --data_dir was given; {how_to_make('SHARDS', command)}"), None
    try:
        manifest = Manifest.read(data.data_dir, command)
    except UserError as error:
        return Finding(PROBLEM, "data", str(error)), None
    size = sum(shard.bytes for shard in manifest.shards)
    text = (
        f"{manifest.name}, {manifest.split}: {manifest.num_videos} videos, {len(manifest.labels)} labels, "
        f"{manifest.width}x{manifest.height} pixels, {manifest.num_shards} shards, {format_bytes(size)}"
    )
    faults = [f"{file}: {fault}" for file, fault in manifest.faults(data.data_dir).items()]
    if faults:
        level, advice = (NOTE, "") if data.skip_corrupt_records else (PROBLEM, "; copy or prepare the data set again")
        return Finding(level, "data", f"{text}; {len(faults)} are damaged, the first {faults[0]}{advice}"), manifest
    verify = f"`python -m data_prep.verify --data_dir={data.data_dir}` checks their contents"
    return Finding(OK, "data", f"{text}; all have the right size; {verify}"), manifest


def check_lengths(config: Config, manifest: Manifest) -> Iterator[Finding]:
    """Reports videos that are too short for a clip."""
    message = describe_too_short(manifest, config.data, config.model.num_frames)
    if message:
        yield Finding(NOTE, "data", message)


def check_classes(manifest: Manifest, conditional: bool) -> Iterator[Finding]:
    """Reports classes without videos."""
    if manifest.empty_classes:
        learns = "; a conditional model learns nothing about them" if conditional else ""
        yield Finding(NOTE, "classes", f"{manifest.empty_classes}{learns}")
