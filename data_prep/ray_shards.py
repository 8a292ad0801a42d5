"""Writes shards on the nodes of a Ray cluster, one per task, each supervised by `workers` on its node.

As on one machine, a decoder that crashes or hangs costs only its video. If a node is lost, other nodes write its
unfinished shards, with the same bytes. All nodes must see the videos under the same paths as this one, and also the
output folder unless it is in a bucket.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import tempfile
from collections.abc import Callable

from data_prep.shard_writer import ShardReport, ShardTask, write_shard
from data_prep.workers import run_supervised
from tganv2_tf import ray_cluster, storage
from tganv2_tf.data.manifest import Skipped
from tganv2_tf.errors import UserError


def run(
    tasks: list[ShardTask],
    folder: str,
    options: ray_cluster.RunnerOptions,
    *,
    at_once: int,
    item_timeout: float,
    on_done: Callable[[ShardTask, ShardReport], None],
) -> None:
    """Writes shards into a folder; returns when all are written.

    Args:
      tasks: One task per shard.
      folder: Output folder: one that all nodes see, or an address in a bucket.
      options: Options of the cluster.
      at_once: Number of shards written at the same time; 0 = as many as the cluster allows.
      item_timeout: Time limit per video in seconds.
      on_done: Called in this process with each finished shard.
    Raises:
      UserError: As in `run_supervised`, or there is no cluster, or a node does not see the videos.
    """
    if not tasks:
        return
    function = functools.partial(write_on_node, folder=folder, item_timeout=item_timeout)
    with ray_cluster.connected(options.ray_address):
        for task, report in ray_cluster.run_tasks(function, map(with_absolute_paths, tasks), options, at_once=at_once):
            on_done(task, report)


def with_absolute_paths(task: ShardTask) -> ShardTask:
    """Returns the task with paths that are valid in processes with another working directory."""
    at = ray_cluster.absolute_path
    videos = tuple(dataclasses.replace(video, path=at(video.path), mask=at(video.mask)) for video in task.videos)
    return dataclasses.replace(task, videos=videos, file=at(task.file), temporary=at(task.temporary))


def write_on_node(task: ShardTask, folder: str, item_timeout: float) -> ShardReport:
    """Writes one shard in a separate process on this node.

    Raises:
      UserError: The shard cannot be written, or none of its videos exists on this node.
    """
    if not any(os.path.exists(video.path) for video in task.videos):
        raise UserError(
            f"{task.videos[0].path}: node {platform.node()} sees none of the videos of {os.path.basename(task.file)}; "
            "put them on a disk that all nodes mount at the same path"
        )
    # A node that was given up may still be writing this shard, so each attempt uses a separate name.
    with tempfile.TemporaryDirectory(prefix="tganv2_tf-shard-") as staging:
        name = os.path.basename(task.file)
        if storage.is_remote(folder):
            task = dataclasses.replace(task, file=os.path.join(staging, name), temporary=f"{staging}/{name}.tmp")
        else:
            task = dataclasses.replace(task, temporary=f"{task.temporary.removesuffix('.tmp')}.{storage.unique()}.tmp")
        reports: list[ShardReport] = []
        run_supervised(
            write_shard,
            [task],
            num_workers=1,
            item_timeout=item_timeout,
            on_done=lambda done, report: reports.append(report),
            on_lost=without_video,
        )
        if storage.is_remote(folder):
            storage.copy(task.file, storage.join(folder, name))
    return reports[0]


def without_video(task: ShardTask, video_id: str, reason: str) -> ShardTask:
    """Returns the task without a lost video."""
    return dataclasses.replace(task, lost=(*task.lost, Skipped(video_id, reason)))
