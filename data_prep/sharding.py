"""Converts a list of videos to a folder of shards with a manifest, robustly.

The assignment of videos to shards is planned before anything is decoded and does not depend on the workers. Each shard
is a separate task, so the same videos and options give the same bytes with any number of workers, and an interrupted
run resumes at the first unfinished shard. Until the manifest is written, `.unfinished/` in the output folder holds the
plan and one report per finished shard.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import sys
import tempfile
from typing import Any

import tqdm

from data_prep import ray_shards, sources
from data_prep.data_set import DataSet
from data_prep.options import ShardingOptions
from data_prep.output_folder import finished, lock, make_folder, read_json, refuse_other_options, remove_unfinished
from data_prep.planning import MIB, bytes_per_video, num_shards, shuffled
from data_prep.report import make_manifest, print_empty_classes, print_report
from data_prep.shard_writer import REMEDY, ShardReport, ShardTask, write_shard
from data_prep.workers import WorkerPool, num_processors, run_supervised
from tganv2_tf import storage
from tganv2_tf.data.manifest import UNFINISHED_DIR, Damaged, Shard, checksum, shard_name
from tganv2_tf.data.records import source_video
from tganv2_tf.errors import UserError
from tganv2_tf.ray_cluster import LOCAL, RunnerOptions
from tganv2_tf.storage.files import write_atomically

MANY_VIDEOS = 64


def prepare(data_set: DataSet, options: ShardingOptions, runner: RunnerOptions = LOCAL) -> int:
    """Writes the shards and the manifest; resumes an earlier run with the same options.

    Args:
      data_set: The data set to prepare.
      options: Options of the shards.
      runner: Where the shards are written; this does not affect their bytes.
    Returns:
      The exit status: 0, or 130 after Ctrl-C or SIGTERM.
    Raises:
      UserError: There is nothing to prepare, too many videos were skipped, or the folder contains something else or
        cannot be written.
    """
    if len(data_set.missing) > options.max_failures:
        raise UserError(
            f"{len(data_set.missing)} of {len(data_set.missing) + len(data_set.videos)} videos are missing, e.g. "
            f"{data_set.missing[0]}; check {data_set.source}, or allow as many with --max_failures"
        )
    if not data_set.videos:
        raise UserError(f"there are no videos to prepare; check {data_set.source}")
    for video in data_set.videos:
        if source_video(video.id) != video.id:
            raise UserError(f"{video.id}: the name of a video must not end like that of a segment (#0001); rename it")
    folder = _output_folder(options)
    work = storage.join(folder, UNFINISHED_DIR)
    made_with = data_set.made_with(options)
    complete = finished(folder, made_with)
    if complete:
        changed = sources.changed(shuffled(data_set.videos, options.seed), complete, folder)
        but = (
            f"; but {len(changed)} videos have changed since, e.g. {changed[0]}: delete the folder first"
            if changed
            else ""
        )
        print(f"{folder}: already complete, nothing to do{but}")
        return 0
    print_empty_classes(data_set)
    make_folder(folder, work)
    try:
        with lock(work), tempfile.TemporaryDirectory() as staging:
            _Preparation(data_set, options, runner, made_with, staging).run()
    except KeyboardInterrupt:
        message = "interrupted; finished shards are kept, run the same command again to resume"
        print(f"{data_set.name}: {message}", file=sys.stderr)
        return 130
    except OSError as error:
        raise UserError(f"--output_dir={folder}: {error.strerror or error}; {REMEDY}") from error
    return 0


class _Preparation:
    """One run, in an output folder that it has locked."""

    def __init__(
        self,
        data_set: DataSet,
        options: ShardingOptions,
        runner: RunnerOptions,
        made_with: dict[str, Any],
        staging: str,
    ) -> None:
        self.data_set, self.options, self.runner, self.made_with = data_set, options, runner, made_with
        self.folder = _output_folder(options)
        self.work = storage.join(self.folder, UNFINISHED_DIR)
        self.staging = staging if storage.is_remote(self.folder) else ""  # where shards wait for their upload
        self.reports: dict[int, ShardReport] = {}
        self.states: dict[int, list[str]] = {}  # states of the videos of each shard

    def run(self) -> None:
        self._remove_temporary_files()  # left by a run that was killed
        try:
            with WorkerPool(self._num_workers_at_once()) as pool:
                self._write_shards(self._plan(pool), pool)
        finally:
            self._remove_temporary_files()  # left by workers that were killed
        self._finish()

    def _num_workers_at_once(self) -> int:
        """Number of workers to start while the plan is made; 0 if one worker can prepare the few videos faster."""
        local = self.runner.runner != "ray" and len(self.data_set.videos) >= MANY_VIDEOS
        return self._num_workers() if local else 0

    def _num_workers(self) -> int:
        return self.options.num_workers or num_processors()

    def _remove_temporary_files(self) -> None:
        if not self.staging:
            for path in [*pathlib.Path(self.work).glob("*.tmp"), *pathlib.Path(self.folder).glob(".manifest.*.json")]:
                path.unlink()

    def _remove_all(self) -> None:
        """Removes the results of a run whose plan is lost, since its options are unknown."""
        shard = re.compile(rf"{re.escape(self.data_set.name)}-{re.escape(self.data_set.split)}-.*-of-.*\.tfrecord")
        for folder, pattern in ((self.work, re.compile(r".*\.json")), (self.folder, shard)):
            for name in filter(pattern.fullmatch, storage.names(folder)):
                storage.remove(storage.join(folder, name))

    def _write_shards(self, tasks: list[ShardTask], pool: WorkerPool) -> None:
        # Record the states now: a video that changes while its shard is being written must count as changed.
        self.states = {task.index: [sources.state(video) for video in task.videos] for task in tasks}
        with concurrent.futures.ThreadPoolExecutor(num_processors()) as threads:  # checksums release the GIL
            found = threads.map(lambda task: self._finished(task), tasks)
            self.reports = {task.index: report for task, report in zip(tasks, found) if report}
        begun = {video.id for task in tasks if task.index in self.reports for video in task.videos}
        done = len(begun)
        if done:
            print(f"{self.folder}: resuming, {len(self.reports)} of {len(tasks)} shards are finished")
        interval = 0.5 if sys.stderr.isatty() else 30  # few lines in a log file
        with tqdm.tqdm(
            total=len(self.data_set.videos), initial=done, unit="video", desc=self.data_set.name, mininterval=interval
        ) as bar:

            def on_begin(task: ShardTask, video_id: str) -> None:
                if video_id not in begun:  # announced again at each segment, and when its shard is rewritten
                    begun.add(video_id)
                    bar.update()

            def on_done(task: ShardTask, report: ShardReport) -> None:
                self.reports[task.index] = report
                saved = {"sources": self.states[task.index], **dataclasses.asdict(report)}
                write_atomically(self._sidecar(task), json.dumps(saved, indent=2))

            def upload(task: ShardTask, report: ShardReport) -> None:
                if self.staging:
                    storage.copy(task.file, storage.join(self.folder, report.shard.file))
                    os.remove(task.file)
                on_done(task, report)

            def on_written(task: ShardTask, report: ShardReport) -> None:
                for video in task.videos:
                    on_begin(task, video.id)
                on_done(task, report)

            left, timeout = [task for task in tasks if task.index not in self.reports], self.options.video_timeout
            if self.runner.runner == "ray":
                ray_shards.run(
                    left,
                    self.folder,
                    self.runner,
                    at_once=self.options.num_workers,
                    item_timeout=timeout,
                    on_done=on_written,
                )
            else:
                run_supervised(
                    write_shard,
                    left,
                    num_workers=self._num_workers(),
                    item_timeout=timeout,
                    on_begin=on_begin,
                    on_done=upload,
                    on_lost=ray_shards.without_video,
                    pool=pool,
                )

    def _plan(self, pool: WorkerPool) -> list[ShardTask]:
        """Returns the tasks of all shards. Keeps the shard count of the first run, even if the estimate differs."""
        videos = shuffled(self.data_set.videos, self.options.seed)
        path = storage.join(self.work, "plan.json")
        plan = read_json(path, {"made_with": dict, "num_shards": int})
        if plan:
            refuse_other_options(self.folder, plan["made_with"], self.made_with)
            count = plan["num_shards"]
        else:
            self._remove_all()
            size = bytes_per_video(videos, self.data_set.reader, self.options, pool)
            count = num_shards(len(videos), size, self.options.shard_mib)
            write_atomically(path, json.dumps({"made_with": self.made_with, "num_shards": count}, indent=2))
        names = [shard_name(self.data_set.name, self.data_set.split, index, count) for index in range(count)]
        bounds = [index * len(videos) // count for index in range(count + 1)]
        return [
            ShardTask(
                index=index,
                file=os.path.join(self.staging or self.folder, name),
                temporary=os.path.join(self.staging or self.work, f"{name}.tmp"),
                videos=tuple(videos[bounds[index] : bounds[index + 1]]),
                reader=self.data_set.reader,
                encoding=self.options.encoding,
                jpeg_quality=self.options.jpeg_quality,
                min_frames=self.options.min_frames,
                max_record_frames=self.options.max_record_frames,
            )
            for index, name in enumerate(names)
        ]

    def _sidecar(self, task: ShardTask) -> str:
        return storage.join(self.work, f"shard-{task.index:05d}.json")

    def _finished(self, task: ShardTask) -> ShardReport | None:
        """Returns the report of a shard that an earlier run finished from the same videos without skipping any."""
        kinds = {"sources": list, "shard": dict, "skipped": list, "damaged": list}
        saved = read_json(self._sidecar(task), {**kinds, "frame_rates": dict, "longest_records": dict})
        # Skipped videos may have been fixed since the earlier run.
        if not saved or saved["skipped"] or saved["sources"] != self.states[task.index]:
            return None
        try:
            shard = Shard(**saved["shard"])
            damaged = tuple(Damaged(**each) for each in saved["damaged"])
        except TypeError:
            return None
        # The shard was complete when its report was written, but it may have changed since.
        if shard.file != os.path.basename(task.file) or shard.fault(self.folder):
            return None
        # An uploaded shard is complete.
        sound = self.staging or checksum(task.file) == shard.checksum
        return ShardReport(shard, (), damaged, saved["frame_rates"], saved["longest_records"]) if sound else None

    def _finish(self) -> None:
        reports = [self.reports[index] for index in sorted(self.reports)]
        states = [self.states[index] for index in sorted(self.states)]
        manifest = make_manifest(self.data_set, self.made_with, reports, states)
        print_report(manifest, self.data_set)
        skipped = manifest.skipped
        full_list = storage.join(self.work, "skipped.json")
        if len(skipped) > self.options.max_failures or not manifest.num_videos:
            write_atomically(full_list, json.dumps([dataclasses.asdict(skip) for skip in skipped], indent=2))
        if not manifest.num_videos:
            raise UserError(f"none of the videos could be prepared; {full_list} lists the reasons")
        if len(skipped) > self.options.max_failures:
            raise UserError(
                f"{len(skipped)} videos are skipped, more than --max_failures={self.options.max_failures}; {full_list} "
                "lists them; fix them or raise the limit, and run the same command again"
            )
        manifest.save(self.folder)
        remove_unfinished(self.work)
        size = sum(shard.bytes for shard in manifest.shards)
        print(
            f"{self.folder}: {manifest.num_videos} videos, {manifest.num_frames} frames of {manifest.width}x"
            f"{manifest.height}, {manifest.num_shards} shards, {size / MIB:.1f} MiB, {len(skipped)} skipped"
        )


def _output_folder(options: ShardingOptions) -> str:
    folder = options.output_dir
    return folder.rstrip("/") if storage.is_remote(folder) else os.fspath(pathlib.Path(folder))
