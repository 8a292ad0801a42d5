"""A list of videos -> a folder of shards with a manifest, whatever happens on the way.

The plan, which video goes into which shard, is made before anything is decoded and does not depend on the workers.
Each shard is then a task of its own, so the same videos and options give the same bytes however many workers there are,
and an interrupted run is taken up at the first unfinished shard. Until the manifest is written, `.unfinished/` in the
output folder keeps the plan and one report a finished shard.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import tqdm

from data_prep import ray_shards
from data_prep.options import ShardingOptions
from data_prep.output_folder import is_complete, lock, make_folder, read_json, refuse_other_options, remove_unfinished
from data_prep.shard_writer import WHAT_TO_DO, ProbeTask, Reader, ShardReport, ShardTask, Video, probe, write_shard
from data_prep.workers import num_processors, run_supervised
from tganv2_tf import storage
from tganv2_tf.data.manifest import (
    MANIFEST_FILE,
    UNFINISHED_DIR,
    Damaged,
    Manifest,
    Shard,
    Skipped,
    checksum,
    shard_name,
)
from tganv2_tf.data.records import source_video
from tganv2_tf.errors import UserError
from tganv2_tf.files import write_atomically
from tganv2_tf.ray_cluster import LOCAL, RunnerOptions

MIB = 2**20
PROBED_VIDEOS = 16
# Small data sets too are to keep several workers busy, and later the readers of several replicas.
LEAST_SHARDS = 8
LEAST_VIDEOS_A_SHARD = 16
SHOWN_VIDEOS = 20


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What a script hands over to be prepared.

    Attributes:
      name: of the data set, such as `ucf101`; with `split` the beginning of the shards' names.
      split: such as `train`.
      height: of the frames that `reader` gives, in pixels.
      width: of the frames that `reader` gives, in pixels.
      labels: names of the classes in the order of their numbers.
      videos: with unique ids; their order means nothing.
      missing: ids of videos that should be there and are not.
      reader: gives the frames of a video; importable from its module.
      options: the script's own options that the frames and the choice of videos depend on.
      source: the flag that names where the videos are.
    """

    name: str
    split: str
    height: int
    width: int
    labels: Sequence[str]
    videos: Sequence[Video]
    missing: Sequence[str]
    reader: Reader
    options: dict[str, Any]
    source: str = "--video_dir"


def prepare(data_set: DataSet, options: ShardingOptions, runner: RunnerOptions = LOCAL) -> int:
    """Writes the shards and the manifest, going on where an earlier run with the same options stopped.

    Args:
      data_set: what is to be prepared.
      options: of the shards.
      runner: where they are written; the bytes are the same.
    Returns:
      The exit status: 0, or 130 after Ctrl-C or SIGTERM.
    Raises:
      UserError: nothing to prepare, too many videos skipped, the folder holds something else or cannot be written.
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
            raise UserError(f"{video.id}: the name of a video may not end as a segment's does, with #0001; rename it")
    folder = _output_folder(options)
    work = storage.join(folder, UNFINISHED_DIR)
    made_with = _made_with(data_set, options)
    if is_complete(folder, made_with):
        changed = _changed_since(folder, data_set.videos)
        but = f"; but {len(changed)} videos have changed since, e.g. {changed[0]}: delete it first" if changed else ""
        print(f"{folder}: complete already, nothing to do{but}")
        return 0
    make_folder(folder, work)
    try:
        with lock(work), tempfile.TemporaryDirectory() as staging:
            _Preparation(data_set, options, runner, made_with, staging).run()
    except KeyboardInterrupt:
        message = "interrupted; finished shards are kept, the same command continues"
        print(f"{data_set.name}: {message}", file=sys.stderr)
        return 130
    except OSError as error:
        raise UserError(f"--output_dir={folder}: {error.strerror or error}; {WHAT_TO_DO}") from error
    return 0


def shuffled(videos: Sequence[Video], seed: int) -> list[Video]:
    """Puts videos into an order that depends on their ids and the seed alone, the same on every machine for ever.

    UCF101's lists are sorted by class: without this a shard would hold three classes.
    """
    return sorted(videos, key=lambda video: hashlib.sha256(f"{seed} {video.id}".encode()).digest())


def num_shards(num_videos: int, bytes_a_video: float, shard_mib: int) -> int:
    """Shards for so many videos: by size, but enough for several workers, and none without videos."""
    by_size = round(num_videos * bytes_a_video / (shard_mib * MIB))
    return max(1, min(num_videos, max(by_size, min(LEAST_SHARDS, num_videos // LEAST_VIDEOS_A_SHARD))))


class _Preparation:
    """One run, in a folder that is ours."""

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

    def run(self) -> None:
        self._remove_temporary_files()  # of a run that was killed
        try:
            self._write_shards(self._plan())
        finally:
            self._remove_temporary_files()  # of workers that were killed
        self._finish()

    def _remove_temporary_files(self) -> None:
        if not self.staging:
            for path in [*pathlib.Path(self.work).glob("*.tmp"), *pathlib.Path(self.folder).glob(".manifest.*.json")]:
                path.unlink()

    def _remove_all(self) -> None:
        """Removes what was made by a plan that is lost: nobody knows with which options."""
        shard = re.compile(rf"{re.escape(self.data_set.name)}-{re.escape(self.data_set.split)}-.*-of-.*\.tfrecord")
        for folder, pattern in ((self.work, re.compile(r".*\.json")), (self.folder, shard)):
            for name in filter(pattern.fullmatch, storage.names(folder)):
                storage.remove(storage.join(folder, name))

    def _write_shards(self, tasks: list[ShardTask]) -> None:
        # Now, so that a video which changes while its shard is being written counts as changed.
        sources = {task.index: [_state(video) for video in task.videos] for task in tasks}
        with concurrent.futures.ThreadPoolExecutor(num_processors()) as pool:  # checksums let go of Python's lock
            found = pool.map(lambda task: self._finished(task, sources[task.index]), tasks)
            self.reports = {task.index: report for task, report in zip(tasks, found) if report}
        begun = {video.id for task in tasks if task.index in self.reports for video in task.videos}
        done = len(begun)
        if done:
            print(f"{self.folder}: going on, {len(self.reports)} of {len(tasks)} shards are finished")
        interval = 0.5 if sys.stderr.isatty() else 30  # not a line every moment in a log file
        with tqdm.tqdm(
            total=len(self.data_set.videos), initial=done, unit="video", desc=self.data_set.name, mininterval=interval
        ) as bar:

            def on_begin(task: ShardTask, video_id: str) -> None:
                if video_id not in begun:  # it is announced again at each segment, and when its shard is made again
                    begun.add(video_id)
                    bar.update()

            def on_done(task: ShardTask, report: ShardReport) -> None:
                self.reports[task.index] = report
                saved = {"sources": sources[task.index], **dataclasses.asdict(report)}
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
                    num_workers=self.options.num_workers or num_processors(),
                    item_timeout=timeout,
                    on_begin=on_begin,
                    on_done=upload,
                    on_lost=ray_shards.without,
                )

    def _plan(self) -> list[ShardTask]:
        """The tasks of all shards; their number is that of the first run, should the estimate come out differently."""
        videos = shuffled(self.data_set.videos, self.options.seed)
        path = storage.join(self.work, "plan.json")
        plan = read_json(path, {"made_with": dict, "num_shards": int})
        if plan:
            refuse_other_options(self.folder, plan["made_with"], self.made_with)
            count = plan["num_shards"]
        else:
            self._remove_all()
            count = num_shards(len(videos), self._bytes_a_video(videos[:PROBED_VIDEOS]), self.options.shard_mib)
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

    def _bytes_a_video(self, sample: list[Video]) -> float:
        # In a worker too: a video that crashes or hangs a decoder must not do so here.
        answers: list[float] = []
        run_supervised(
            probe,
            [ProbeTask(tuple(sample), self.data_set.reader, self.options.encoding, self.options.jpeg_quality)],
            num_workers=1,
            item_timeout=self.options.video_timeout,
            on_done=lambda task, answer: answers.append(answer),
            on_lost=lambda task, video_id, reason: dataclasses.replace(
                task, videos=tuple(video for video in task.videos if video.id != video_id)
            ),
        )
        return answers[0]

    def _sidecar(self, task: ShardTask) -> str:
        return storage.join(self.work, f"shard-{task.index:05d}.json")

    def _finished(self, task: ShardTask, sources: list[str]) -> ShardReport | None:
        """The report of a shard that an earlier run finished, of these very videos and none that it had to skip."""
        kinds = {"sources": list, "shard": dict, "skipped": list, "damaged": list}
        saved = read_json(self._sidecar(task), {**kinds, "frame_rates": dict, "longest_records": dict})
        # Whoever starts the command again after a report of broken videos may have mended them.
        if not saved or saved["skipped"] or saved["sources"] != sources:
            return None
        try:
            shard = Shard(**saved["shard"])
            damaged = tuple(Damaged(**each) for each in saved["damaged"])
        except TypeError:
            return None
        # Its bytes were on the disk before its report was; but what has happened since?
        if shard.file != os.path.basename(task.file) or shard.fault(self.folder):
            return None
        # What was uploaded is whole.
        sound = self.staging or checksum(task.file) == shard.checksum
        return ShardReport(shard, (), damaged, saved["frame_rates"], saved["longest_records"]) if sound else None

    def _finish(self) -> None:
        missing = [Skipped(video_id, "the file is missing") for video_id in self.data_set.missing]
        reports = [self.reports[index] for index in sorted(self.reports)]
        skipped = [*missing, *(skip for report in reports for skip in report.skipped)]
        skipped.sort(key=lambda skip: skip.video)
        damaged = sorted((each for report in reports for each in report.damaged), key=lambda each: each.video)
        frame_rates: collections.Counter[str] = collections.Counter()
        longest_records: collections.Counter[str] = collections.Counter()
        for report in reports:
            frame_rates.update(report.frame_rates)
            longest_records.update(report.longest_records)
        of_all = f"of {len(self.data_set.videos) + len(missing)} videos are"
        _print_reasons(f"{len(skipped)} {of_all} skipped:", skipped)
        _print_reasons(f"{len(damaged)} {of_all} damaged, and in the data set without what cannot be decoded:", damaged)
        manifest = Manifest(
            name=self.data_set.name,
            split=self.data_set.split,
            height=self.data_set.height,
            width=self.data_set.width,
            labels=list(self.data_set.labels),
            options=self.made_with,
            shards=[report.shard for report in reports],
            skipped=skipped,
            damaged=damaged,
            frame_rates=dict(sorted(frame_rates.items(), key=lambda item: float(item[0]))),
            longest_records=dict(sorted(longest_records.items(), key=lambda item: int(item[0]))),
        )
        full_list = storage.join(self.work, "skipped.json")
        if len(skipped) > self.options.max_failures or not manifest.num_videos:
            write_atomically(full_list, json.dumps([dataclasses.asdict(skip) for skip in skipped], indent=2))
        if not manifest.num_videos:
            raise UserError(f"none of the videos could be prepared; {full_list} lists the reasons")
        if len(skipped) > self.options.max_failures:
            raise UserError(
                f"{len(skipped)} videos are skipped, more than --max_failures={self.options.max_failures}; {full_list} "
                "lists them; mend them or raise the limit, and run the same command again"
            )
        manifest.save(self.folder)
        remove_unfinished(self.work)
        size = sum(shard.bytes for shard in manifest.shards)
        print(
            f"{self.folder}: {manifest.num_videos} videos, {manifest.num_frames} frames of {manifest.width}x"
            f"{manifest.height}, {manifest.num_shards} shards, {size / MIB:.1f} MiB, {len(skipped)} skipped"
        )


def _print_reasons(title: str, videos: Sequence[Skipped | Damaged]) -> None:
    if not videos:
        return
    print(title)
    for each in videos[:SHOWN_VIDEOS]:
        print(f"  {_in_one_line(each.video)}: {_in_one_line(each.reason)}")
    if len(videos) > SHOWN_VIDEOS:
        print(f"  and {len(videos) - SHOWN_VIDEOS} more")


def _state(video: Video) -> str:
    """Size and time of change of its files, to see whether it was mended since.

    Kept beside each finished shard and not among the options: a mended video is no reason to refuse the folder.
    """
    try:
        states = [os.stat(path) for path in video.files]
    except OSError:
        return "missing"
    return "; ".join(f"{state.st_size} bytes, {state.st_mtime_ns} ns" for state in states)


def _in_one_line(text: str) -> str:
    """Names of files may hold line ends, and characters that a terminal obeys."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _output_folder(options: ShardingOptions) -> str:
    folder = options.output_dir
    return folder.rstrip("/") if storage.is_remote(folder) else os.fspath(pathlib.Path(folder))


def _changed_since(folder: str, videos: Sequence[Video]) -> list[str]:
    """Ids of the videos that are newer than the finished data set; none for one in a bucket, whose clock is another."""
    if storage.is_remote(folder):
        return []
    finished = os.stat(os.path.join(folder, MANIFEST_FILE)).st_mtime_ns
    return [
        video.id
        for video in videos
        if any(os.path.exists(path) and os.stat(path).st_mtime_ns > finished for path in video.files)
    ]


def _made_with(data_set: DataSet, options: ShardingOptions) -> dict[str, Any]:
    """Everything that the bytes of the shards depend on, by the names of the flags."""
    listed = "\n".join(sorted(f"{video.id} {video.label} {video.label_name}" for video in data_set.videos))
    ours = ("encoding", "jpeg_quality", "shard_mib", "min_frames", "max_record_frames", "seed")
    return {
        "data_set": data_set.name,
        "split": data_set.split,
        **data_set.options,
        **{name: getattr(options, name) for name in ours},
        "videos": f"{len(data_set.videos)} with digest {hashlib.sha256(listed.encode()).hexdigest()[:16]}",
    }
