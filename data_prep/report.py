"""Reports skipped and damaged videos, in the manifest and on the terminal."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

from data_prep import sources
from data_prep.data_set import DataSet
from data_prep.shard_writer import ShardReport
from tganv2_tf.data.manifest import Damaged, Manifest, Skipped, describe_empty_classes

SHOWN_VIDEOS = 20


def make_manifest(
    data_set: DataSet, made_with: dict[str, Any], reports: Sequence[ShardReport], states: Sequence[Sequence[str]]
) -> Manifest:
    """Returns the manifest of a finished data set.

    Args:
      data_set: The prepared data set.
      made_with: Every option that affects the bytes of the shards.
      reports: Reports of all shards, in their order.
      states: States of the videos of each shard, from `sources.state`.
    """
    skipped = [Skipped(video_id, "the file is missing") for video_id in data_set.missing]
    skipped += [skip for report in reports for skip in report.skipped]
    frame_rates: collections.Counter[str] = collections.Counter()
    longest_records: collections.Counter[str] = collections.Counter()
    for report in reports:
        frame_rates.update(report.frame_rates)
        longest_records.update(report.longest_records)
    return Manifest(
        name=data_set.name,
        split=data_set.split,
        height=data_set.height,
        width=data_set.width,
        labels=list(data_set.labels),
        options=made_with,
        shards=[report.shard for report in reports],
        skipped=sorted(skipped, key=lambda skip: skip.video),
        damaged=sorted((each for report in reports for each in report.damaged), key=lambda each: each.video),
        frame_rates=dict(sorted(frame_rates.items(), key=lambda item: float(item[0]))),
        longest_records=dict(sorted(longest_records.items(), key=lambda item: int(item[0]))),
        videos_per_class=data_set.videos_per_class([skip.video for skip in skipped]),
        sources=[sources.in_manifest(each) for each in states],
    )


def print_empty_classes(data_set: DataSet) -> None:
    """Prints one line if there are classes without videos."""
    empty = describe_empty_classes(data_set.labels, data_set.videos_per_class())
    if empty:
        print(f"warning: {empty}")


def print_report(manifest: Manifest, data_set: DataSet) -> None:
    """Prints skipped and damaged videos; also the classes without videos if skipping has added to them."""
    skipped, damaged = manifest.skipped, manifest.damaged
    of_total = f"of {len(data_set.videos) + len(data_set.missing)} videos are"
    _print_reasons(f"{len(skipped)} {of_total} skipped:", skipped)
    _print_reasons(f"{len(damaged)} {of_total} damaged; only their decodable frames are in the data set:", damaged)
    if manifest.videos_per_class.count(0) > data_set.videos_per_class().count(0):
        print(f"warning: {manifest.empty_classes}")


def _print_reasons(title: str, videos: Sequence[Skipped | Damaged]) -> None:
    """Prints the title and the first videos with their reasons; prints nothing if there are none."""
    if not videos:
        return
    print(title)
    for each in videos[:SHOWN_VIDEOS]:
        print(f"  {in_one_line(each.video)}: {in_one_line(each.reason)}")
    if len(videos) > SHOWN_VIDEOS:
        print(f"  and {len(videos) - SHOWN_VIDEOS} more")


def in_one_line(text: str) -> str:
    """Escapes line ends and terminal control characters, which file names may contain."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
