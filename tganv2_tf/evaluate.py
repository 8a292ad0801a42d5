"""Scores a generator: inception score, C3D FID and other metrics, by the paper's protocol.

python -m tganv2_tf.evaluate --model_dir=runs/ucf101 --data_dir=data/ucf101/train --classifier=classifier.npz
python -m tganv2_tf.evaluate --saved_model=saved_models/ucf101/1 --data_dir=data/ucf101/train \\
  --classifier=conv3d_deepnetA_ucf.npz --c3d_mean=mean2.npz --output=scores.json
python -m tganv2_tf.evaluate --video_dir=samples --scores=fvd,kvd --i3d=i3d-kinetics-400 --data_dir=data/ucf101/train

On a Ray cluster, with the same scores (docs/distributed.md):
  python -m tganv2_tf.evaluate --model_dir=runs/ucf101 --classifier=classifier.npz --runner=ray --gpus_per_task=1

The source of the videos is exactly one of --model_dir, --saved_model, --video_dir and --clips_dir. The scores are also
written as a JSON report, with everything needed to repeat the evaluation; those of a run are also written to
TensorBoard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import pathlib
import sys
import types
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import logging

from tganv2_tf import cli, ray_cluster, storage
from tganv2_tf.config import DataConfig, EvalConfig
from tganv2_tf.errors import ConfigError
from tganv2_tf.evaluation import score_names
from tganv2_tf.options import option, require
from tganv2_tf.ray_cluster import LOCAL, RunnerOptions
from tganv2_tf.runs import Run
from tganv2_tf.storage.files import check_destination, write_atomically
from tganv2_tf.video_io.folders import video_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from tganv2_tf.evaluation.protocol import Score
    from tganv2_tf.evaluation.samples import Batches
    from tganv2_tf.sampling.scored import GeneratorSpec

SOURCES = ("model_dir", "saved_model", "video_dir", "clips_dir")


@dataclasses.dataclass(frozen=True)
class Command:
    """Videos to score, and real videos."""

    model_dir: str = option(
        "a run, RUN/best, or a checkpoint such as RUN/snapshots/ckpt-10000: its averaged generator", ""
    )
    untrained: bool = option("with --model_dir: use its generator as before training", False)
    saved_model: str = option("folder of one version of a SavedModel", "")
    video_dir: str = option(
        "folder of videos; their first 16 frames are used, cropped and resized like those in --data_dir", ""
    )
    clips_dir: str = option("folder of shards, scored as if their clips were generated", "")
    data_dir: str = option("folder of the shards of real videos; none = the training data of the run", "")
    scores: str = option(
        "any of inception_score, c3d_fid, class_accuracy, effective_classes, precision, recall, density, coverage "
        "(C3D), fvd, kvd (I3D)",
        "inception_score,c3d_fid",
    )
    i3d: str = option("SavedModel or TF-Hub module of the I3D for fvd and kvd", "")
    flip: str = option("mirror half of the real clips; auto = as in the run, else yes", "auto", ("auto", "yes", "no"))
    frame_step: int = option("frame step of real clips; 0 = as in the run, else 1", 0)
    normalization: str = option(
        "normalization of real clips and video files; auto = as in the run, else official with --c3d_mean, else paper",
        "auto",
        ("auto", "paper", "official"),
    )
    seed: int = option("seed of the latents, or of the clips of --clips_dir", 0)
    truncation: float = option("psi: latents are drawn from U(-psi, psi); lower is less varied", 1.0)
    first_frame: int = option("first generated frame to score, from 0; 16 scores frames 17 to 32 of longer videos", 0)
    output: str = option("JSON file to write; none = RUN/evaluations/ of a run, else no file", "", destination="file")

    def __post_init__(self) -> None:
        require(not self.untrained or bool(self.model_dir), "untrained", "true", "with --model_dir only")
        require(self.frame_step >= 0, "frame_step", self.frame_step, "a whole number of at least 0")
        require(0 < self.truncation <= 1, "truncation", self.truncation, "a number above 0, up to 1")
        generated = bool(self.model_dir or self.saved_model)
        require(generated or self.truncation == 1, "truncation", self.truncation, "with generators only")
        require(self.first_frame >= 0, "first_frame", self.first_frame, "a whole number of at least 0")
        require(generated or not self.first_frame, "first_frame", self.first_frame, "with generators only")
        require(0 <= self.seed < 2**31, "seed", self.seed, "a whole number from 0 to 2147483647")

    @functools.cached_property
    def run(self) -> Run | None:
        """The run of `model_dir`, with the checkpoint that was newest at the first access."""
        return Run.open(self.model_dir) if self.model_dir else None


class Outcome(NamedTuple):
    """Scores and their metadata for the report.

    Attributes:
      scores: scores by name.
      generated: description of the scored videos.
      protocol: everything the scores depend on besides the videos.
      names: names of the requested scores.
    """

    scores: Mapping[str, Score]
    generated: dict[str, Any]
    protocol: dict[str, Any]
    names: list[str]


def data_config(command: Command, run_data: DataConfig | None, authors_c3d: bool) -> DataConfig:
    """Returns how real clips are sampled: as in the run, unless the command overrides it."""
    # The authors' C3D preprocessing expects their own normalization.
    data = run_data or DataConfig(normalization="official" if authors_c3d else "paper")
    changes: dict[str, Any] = {}
    if command.data_dir:
        changes["data_dir"] = command.data_dir
    if command.flip != "auto":
        changes["flip"] = command.flip == "yes"
    if command.frame_step:
        changes["frame_step"] = command.frame_step
    if command.normalization != "auto":
        changes["normalization"] = command.normalization
    return dataclasses.replace(data, **changes)


def generator_spec(command: Command, config: EvalConfig) -> GeneratorSpec | None:
    """Returns the generator to score (of a run, its newest checkpoint); None if existing videos are scored."""
    from tganv2_tf.sampling.scored import GeneratorSpec

    run = command.run
    if not (run or command.saved_model):
        return None
    batches = config.recalibration_batches if run else 0
    return GeneratorSpec(
        run, command.untrained, command.saved_model, command.seed, command.truncation, command.first_frame, batches
    )


def source(
    command: Command, config: EvalConfig, generator: GeneratorSpec | None
) -> tuple[Batches, DataConfig, dict[str, Any], tuple[str, ...]]:
    """Returns the videos to score, the sampling of real clips, the videos' description, and the generator's classes.

    Raises:
      ConfigError: `--untrained`, but the run was initialized from another run.
      UserError: there is nothing to score.
    """
    from tganv2_tf.data.manifest import Manifest, folder_checksum
    from tganv2_tf.evaluation import samples
    from tganv2_tf.evaluation.framing import Framing
    from tganv2_tf.sampling.scored import load_scored_generator

    batch_size, authors_c3d = config.eval_batch_size, bool(config.c3d_mean)
    if generator is not None:
        scored = load_scored_generator(generator)
        data = data_config(command, scored.config.data if scored.config else None, authors_c3d)
        about: dict[str, Any] = (
            {"model_dir": command.model_dir} if scored.config else {"normalization": data.normalization}
        )
        about |= scored.about
        batches = (scored.batch(generator, number, batch_size) for number in itertools.count())
        return batches, data, about, scored.class_names
    data = data_config(command, None, authors_c3d)
    about, framing = {"normalization": data.normalization}, Framing.from_folder(data.data_dir)
    if command.video_dir:
        paths = samples.list_videos(command.video_dir)
        about |= {"video_dir": command.video_dir, "num_videos": len(paths)}
        files = [pathlib.Path(file) for path in paths for file in video_files(path)]
        about["checksum"] = folder_checksum(command.video_dir, files)
        about["framing"] = framing and dataclasses.asdict(framing)
        return samples.folder_batches(paths, batch_size, data.normalization, framing), data, about, ()
    manifest = Manifest.load(command.clips_dir)
    if framing is not None:
        framing.warn_if_different(Framing.from_manifest(manifest), command.clips_dir)
    clips = dataclasses.replace(data, data_dir=command.clips_dir)
    about |= {"clips_dir": command.clips_dir, "flip": clips.flip, "frame_step": clips.frame_step}
    about["shards"] = {shard.file: shard.checksum for shard in manifest.shards}
    seed = command.seed + 1  # 0 is used for real clips
    return samples.shard_batches(manifest, clips, seed, batch_size), data, about, ()


def check(command: Command, config: EvalConfig, is_array: bool = False) -> list[str]:
    """Returns the names of the scores, without importing TensorFlow. Raises ConfigError if flags are inconsistent."""
    if sum(bool(getattr(command, name)) for name in SOURCES) != (not is_array):
        flags = ", ".join(f"--{name}" for name in SOURCES)
        raise ConfigError(f"specify exactly one of {flags}")
    names = score_names.parse_scores(command.scores)
    score_names.require_networks(names, config, command.i3d)
    if not command.model_dir:  # a run records its data
        score_names.require_real_clips(names, command.data_dir)
    return names


def check_report(run: Run) -> None:
    """Raises UserError if a run's report cannot be written into its folder."""
    from tganv2_tf.evaluation.report import report_path

    if storage.exists(run.folder):
        what = f"--model_dir={run.name}: the report in {run.folder}"
        check_destination(report_path(run.folder, 0, ""), what, "specify a file with --output")


def score(
    command: Command, config: EvalConfig, runner: RunnerOptions = LOCAL, videos: np.ndarray | None = None
) -> Outcome:
    """Scores a generator, files, shards or arrays.

    Args:
      command: the videos to score, and the real ones.
      config: the protocol.
      runner: where to compute.
      videos: uint8 [N, T, H, W, 3], T at least 16, if the command names no source.
    Raises:
      ConfigError: options are invalid or inconsistent.
      UserError: files are missing or damaged.
    """
    names = check(command, config, videos is not None)
    kinds, with_real = score_names.required_networks(names), score_names.networks_with_real_clips(names)
    from tganv2_tf.data.lengths import describe_too_short
    from tganv2_tf.data.manifest import Manifest
    from tganv2_tf.evaluation import protocol, samples, validity
    from tganv2_tf.evaluation.framing import Framing
    from tganv2_tf.evaluation.networks import NetworkFiles, extract_features, load_networks, warn_if_unreliable
    from tganv2_tf.evaluation.real_features import real_features
    from tganv2_tf.evaluation.report import describe_protocol

    files = NetworkFiles(kinds, config, command.i3d)
    if runner.runner == "ray":
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # leaves the GPUs to tasks on this machine
    generator = generator_spec(command, config)
    if videos is None:
        batches, data, generated, class_names = source(command, config, generator)
    else:
        data, class_names = data_config(command, None, bool(config.c3d_mean)), ()
        batches = samples.array_batches(
            videos, config.eval_batch_size, data.normalization, Framing.from_folder(data.data_dir)
        )
        generated = {"num_videos": len(videos), "normalization": data.normalization}
    score_names.require_real_clips(names, data.data_dir)
    manifest = Manifest.load(data.data_dir) if with_real else None
    too_short = manifest and describe_too_short(manifest, data, samples.NUM_FRAMES)
    if too_short:
        logging.warning("%s.", too_short)
    networks = load_networks(files)
    warn_if_unreliable(networks)
    labels = networks["c3d"].labels if "c3d" in networks else ()
    if "class_accuracy" in names:
        validity.classifier_columns(class_names, labels)  # fails before real clips are read
    for text in validity.other_classes(manifest.labels if manifest else class_names, labels):
        logging.warning("%s", text)
    real = {}
    with contextlib.ExitStack() as stack:
        if runner.runner == "local":
            extract = functools.partial(extract_features, networks=networks)
            outputs = extract(batches, kinds=kinds)
        else:
            from tganv2_tf.sampling import scored

            stack.enter_context(ray_cluster.connected(runner.ray_address))
            extract = functools.partial(scored.remote_feature_extraction, files=files, options=runner)
            if generator is None:
                outputs = extract(batches, kinds=kinds)
            else:
                outputs = scored.remote_features(generator, files, runner)
        if manifest is not None:
            for kind in sorted(with_real):
                extract_kind = functools.partial(extract, kinds=(kind,))
                real[kind] = real_features(networks[kind], manifest, data, config, extract_kind)
        count = min(config.num_samples, generated.get("num_videos", config.num_samples))
        for text in validity.too_few(names, count, real):
            logging.warning("%s", text)
        found = protocol.score_outputs(names, outputs, labels, real, config, class_names=class_names)
    return Outcome(found, generated, describe_protocol(networks, data, manifest, config), names)


def main(command: Command, config: EvalConfig, runner: RunnerOptions = LOCAL) -> int:
    check(command, config)
    run = command.run
    if run and not command.output:
        check_report(run)
    found, generated, about, names = score(command, config, runner)
    width = max(16, *map(len, found))
    for name, result in found.items():
        print(f"{name:<{width}} {result.mean:.4f} +- {result.std:.4f}")

    from tganv2_tf.evaluation.report import report, report_path, show_scores

    output = command.output
    if run and not output:
        identity = [names, command.seed, about, command.truncation, command.first_frame, config.recalibration_batches]
        output = report_path(run.folder, generated["step"], identity)
    if output:
        write_atomically(output, report(found, {**generated, "seed": command.seed}, about, config))
        print(f"Report: {output}")
    if run and not command.first_frame:  # TensorBoard compares scores of the first frames
        show_scores(run.folder, found, generated["step"])
    return 0


class _CallableModule(types.ModuleType):
    """Makes this module callable: `tganv2_tf.evaluate` is also the function of the Python interface."""

    def __call__(self, *arguments: Any, **options: Any) -> dict[str, float]:
        from tganv2_tf import api

        return api.evaluate(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    sys.exit(cli.run(main, (Command, EvalConfig, RunnerOptions), "tganv2_tf.evaluate", __doc__))
