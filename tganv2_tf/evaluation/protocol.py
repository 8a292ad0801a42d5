"""The evaluation protocol: numbers of videos and repetitions, real features and their cache, scores and reports.

The paper's protocol: 10 repetitions of 2048 generated videos each; mean and standard deviation over the repetitions.
The inception score uses C3D's class probabilities. The Frechet distance uses the features fc7 (after ReLU, as in the
authors' code), with ten clips of each training video, sampled as in training.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import hashlib
import itertools
import json
import pathlib
import platform
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import scipy
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from tganv2_tf import __version__, storage
from tganv2_tf.config import DataConfig, EvalConfig
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation import metrics
from tganv2_tf.evaluation.c3d import NUM_FRAMES
from tganv2_tf.evaluation.networks import Answers, Network, described, enough_memory
from tganv2_tf.evaluation.samples import Batches, Stream, of_shards
from tganv2_tf.evaluation.score_names import NETWORK_OF
from tganv2_tf.evaluation.validity import classifier_columns
from tganv2_tf.events import EventWriter
from tganv2_tf.files import Path, read_npz, whole_file

COMPARE_SAMPLES = {"kvd", "precision", "recall", "density", "coverage"}
NEIGHBOURS = 5  # the largest k of the scores; there must be more samples
REAL_SEED = 0  # all evaluations use the same real clips
CACHE_FORMAT = 1


class Real(NamedTuple):
    """Features of real clips.

    Attributes:
      moments: mean and covariance of all of them.
      sample: float32 [n, d], the first ones, as many as in a repetition, for scores that compare samples.
    """

    moments: metrics.Moments
    sample: np.ndarray


@dataclasses.dataclass(frozen=True)
class Score:
    """Mean and standard deviation (divided by n) over the repetitions."""

    mean: float
    std: float
    values: list[float]

    @classmethod
    def of(cls, values: list[float]) -> Score:
        return cls(float(np.mean(values)), float(np.std(values)), values)


def digest(identity: Any) -> str:
    """Returns a hash, 24 hexadecimal digits, of a JSON-serializable value."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def describe_real(data: DataConfig, manifest: Manifest, config: EvalConfig) -> dict[str, Any]:
    """Returns which real clips are used and how they are sampled."""
    fields = ("flip", "frame_step", "normalization", "skip_corrupt_records")
    return {
        **{field: getattr(data, field) for field in fields},
        "clips": config.real_passes * manifest.num_records,
        "num_frames": NUM_FRAMES,
        "seed": REAL_SEED,
        "shards": {shard.file: shard.checksum for shard in manifest.shards},
    }


def describe_protocol(
    networks: Mapping[str, Network], data: DataConfig, manifest: Manifest | None, config: EvalConfig
) -> dict[str, Any]:
    """Returns everything the scores depend on besides the videos; scores are comparable if it is equal."""
    return {
        "networks": [networks[name].identity for name in sorted(networks)],
        "real": manifest and describe_real(data, manifest, config),
        "num_samples": config.num_samples,
        "repetitions": config.repetitions,
    }


def real_features(
    network: Network,
    manifest: Manifest,
    data: DataConfig,
    config: EvalConfig,
    describe: Callable[[Batches], Iterator[Answers]] | None = None,
) -> Real:
    """Computes features of `real_passes` clips per real video (on average), or reads them from the cache.

    Args:
      network: the feature extractor.
      manifest: manifest of the data set in `data.data_dir`.
      data: how training samples clips.
      config: `real_passes`, `num_samples` and `cache_dir` are used.
      describe: computes the network's outputs on other machines; None = on this one.
    Raises:
      ConfigError: no video has 16 frames.
      UserError: the data are damaged or too few, or features are not finite.
    """
    count = config.real_passes * manifest.num_records
    if count <= NEIGHBOURS:
        raise UserError(f"{data.data_dir}: {count} real clips are too few; raise --real_passes")
    missing = min(config.num_samples, count)
    identity = {
        "format": CACHE_FORMAT,
        "network": network.identity,
        "clips": describe_real(data, manifest, config),
        "kept": missing,
        "tensorflow": tf.__version__,
    }
    path = None
    if config.cache_dir:
        path = pathlib.Path(config.cache_dir).expanduser() / f"real-{network.name}-{digest(identity)}.npz"
        cached = _cached(path)
        if cached is not None:
            return cached
    moments, kept = metrics.Moments(), []
    batches = Stream(of_shards(manifest, data, REAL_SEED, config.eval_batch_size)).take(count)
    answers = described(batches, [network.name], {network.name: network}) if describe is None else describe(batches)
    with enough_memory(), tqdm(total=count, desc="real clips", unit="clip", mininterval=1) as bar:
        for answer in answers:
            features = answer[network.name][0]
            if not np.isfinite(features).all():
                raise UserError("what the network says of real clips are no finite numbers; its weights are of no use")
            moments.update(features)
            if missing > 0:
                kept.append(features[:missing])
                missing -= len(kept[-1])
            bar.update(len(features))
    real = Real(moments, np.concatenate(kept))
    if path is not None:
        try:
            with whole_file(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, identity=json.dumps(identity), sample=real.sample, **moments.to_arrays())
        except OSError as error:
            logging.warning("%s: the features of the real clips are not kept: %s.", path, error)
    return real


def _cached(path: pathlib.Path) -> Real | None:
    if not path.is_file():
        return None
    try:
        arrays = read_npz(path, "tganv2_tf")
        return Real(metrics.Moments.from_arrays(arrays), arrays["sample"])
    except (UserError, KeyError, ValueError) as error:
        logging.warning("%s; computed again.", error)
        return None


def evaluate(
    scores: Collection[str],
    batches: Batches,
    networks: Mapping[str, Network],
    real: Mapping[str, Real],
    config: EvalConfig,
    progress: bool = True,
    class_names: Sequence[str] = (),
) -> dict[str, Score]:
    """Runs the networks on this machine and applies `score_answers`."""
    answers = described(batches, networks.keys(), networks)
    labels = networks["c3d"].labels if "c3d" in networks else ()
    return score_answers(scores, answers, labels, real, config, progress, class_names)


def score_answers(
    scores: Collection[str],
    answers: Iterator[Answers],
    labels: Sequence[str],
    real: Mapping[str, Real],
    config: EvalConfig,
    progress: bool = True,
    class_names: Sequence[str] = (),
) -> dict[str, Score]:
    """Computes scores. Memory use grows with the number of videos only for scores that compare samples.

    Args:
      scores: names from `NETWORK_OF`.
      answers: network outputs, batch by batch.
      labels: class names of the classifier.
      real: features of real clips, by network name.
      config: `num_samples` and `repetitions`, upper bounds if there are fewer videos.
      progress: whether to show a progress bar.
      class_names: of a conditional generator, for `class_accuracy`; video i belongs to class i % len(class_names).
    Returns:
      Scores by name; with `class_accuracy`, also `class_accuracy/NAME` for each class.
    Raises:
      ConfigError: `class_accuracy` without class names, or with a class that the classifier does not know.
      UserError: there are too few videos, or outputs are not finite.
    """
    stream = Stream(answers)
    columns = classifier_columns(class_names, labels) if "class_accuracy" in scores else None
    values: dict[str, list[float]] = collections.defaultdict(list)
    number = 0
    total = config.repetitions * config.num_samples
    with enough_memory(), tqdm(total=total, desc="generated", unit="video", mininterval=1, disable=not progress) as bar:
        for repetition in range(config.repetitions):
            repetitions = {name: _Repetition(name, scores) for name in {NETWORK_OF[score] for score in scores}}
            count = 0
            for answer in stream.take(config.num_samples):
                for name, each in repetitions.items():
                    features, probabilities = answer[name]
                    numbers = range(number, number + len(features))
                    asked_for = None if columns is None else np.array([columns[i % len(columns)] for i in numbers])
                    each.update(features, probabilities, asked_for)
                count, number = count + len(features), number + len(features)
                bar.update(len(features))
            if count < config.num_samples and repetition:
                break  # a smaller last repetition would have another bias
            if count <= NEIGHBOURS:
                raise UserError(f"{count} videos are too few to be scored; expected more than {NEIGHBOURS}")
            if count < config.num_samples:
                logging.warning("Only %d videos, and not --num_samples=%d.", count, config.num_samples)
            for name, each in repetitions.items():
                for score, value in each.scores(real.get(name)).items():
                    values[score].append(value)
    found = {name: Score.of(values[name]) for name in scores}
    if columns is not None:
        for name, column in zip(class_names, columns):
            found[f"class_accuracy/{name}"] = Score.of(values[f"class_accuracy/{column}"])
    return found


class _Repetition:
    """Accumulates one network's outputs over one repetition."""

    def __init__(self, network: str, scores: Collection[str]) -> None:
        self.wanted = [score for score in scores if NETWORK_OF[score] == network]
        self.inception_score, self.moments = metrics.InceptionScore(), metrics.Moments()
        self.features: list[np.ndarray] = []
        self.correct: dict[int, list[bool]] = collections.defaultdict(list)  # by the classifier's class number

    def update(self, features: np.ndarray, probabilities: np.ndarray | None, asked_for: np.ndarray | None) -> None:
        """Adds a batch of outputs; `asked_for` holds the target classes by the classifier's numbers, int [n]."""
        if not np.isfinite(features).all():
            raise UserError("the videos, or what the network says of them, are not finite numbers; nothing to score")
        if "inception_score" in self.wanted and probabilities is not None:
            self.inception_score.update(probabilities)
        if "class_accuracy" in self.wanted and probabilities is not None and asked_for is not None:
            for column, said in zip(asked_for, probabilities.argmax(1)):
                self.correct[int(column)].append(said == column)
        if {"c3d_fid", "fvd"} & set(self.wanted):
            self.moments.update(features)
        if COMPARE_SAMPLES & set(self.wanted):
            self.features.append(features)

    def scores(self, real: Real | None) -> dict[str, float]:
        found = {}
        if "inception_score" in self.wanted:
            found["inception_score"] = self.inception_score.result()
        if real is not None:
            for score in {"c3d_fid", "fvd"} & set(self.wanted):
                found[score] = metrics.frechet_distance(real.moments, self.moments)
        if real is not None and self.features:
            fake = np.concatenate(self.features)
            if "kvd" in self.wanted:
                found["kvd"] = metrics.kernel_distance(real.sample, fake)
            if {"precision", "recall"} & set(self.wanted):
                found.update(metrics.precision_recall(real.sample, fake)._asdict())
            if {"density", "coverage"} & set(self.wanted):
                found.update(metrics.density_coverage(real.sample, fake)._asdict())
        of_classes = {f"class_accuracy/{column}": float(np.mean(correct)) for column, correct in self.correct.items()}
        if of_classes:
            found["class_accuracy"] = float(np.mean(list(itertools.chain.from_iterable(self.correct.values()))))
        return {score: found[score] for score in self.wanted} | of_classes


def report(
    scores: Mapping[str, Score], generated: Mapping[str, Any], described: Mapping[str, Any], config: EvalConfig
) -> str:
    """Returns a JSON report: the results, and everything needed to repeat the evaluation.

    Args:
      scores: the results.
      generated: description of the scored videos.
      described: result of `describe_protocol`.
      config: the options, including file paths.
    """
    made = {
        "scores": {name: dataclasses.asdict(score) for name, score in scores.items()},
        "generated": generated,
        "protocol": described,
        "options": dataclasses.asdict(config),
        "versions": {
            "tganv2_tf": __version__,
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (tf, np, scipy, cv2)},
        },
        "command": sys.argv[1:],
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    return json.dumps(made, indent=2) + "\n"


def report_path(model_dir: Path, step: int, identity: Any) -> str:
    """Returns the path of a run's report for a step; it differs between protocols and sets of scores."""
    return storage.join(model_dir, "evaluations", f"step-{step}-{digest(identity)[:8]}.json")


def show_scores(folder: str, scores: Mapping[str, Score], step: int) -> None:
    """Writes scores to TensorBoard. Failures are only logged, because the report is already written."""
    try:
        with EventWriter(folder) as writer:
            write_summaries(writer, scores, step)
    except (OSError, tf.errors.OpError) as error:
        logging.warning("%s: the scores are not shown in TensorBoard: %s", folder, str(error).splitlines()[0])


def write_summaries(writer: tf.summary.SummaryWriter, scores: Mapping[str, Score], step: int) -> None:
    """Writes `eval/SCORE`, and `eval/SCORE_std` if there are several repetitions, without flushing."""
    with writer.as_default(step):
        for name, score in scores.items():
            if name.startswith("class_accuracy/"):  # one chart per class would be too many
                continue
            tf.summary.scalar(f"eval/{name}", score.mean)
            if len(score.values) > 1:
                tf.summary.scalar(f"eval/{name}_std", score.std)
