"""How scores come about: which videos, which network, how often, against which real clips.

The paper's protocol: 2048 generated videos a repetition, 10 repetitions, mean and standard deviation over them; the
inception score from C3D's class probabilities, the Frechet distance from its features fc7, as in the authors' code
after their ReLU, against ten clips of each training video, drawn as training draws them.
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
NEIGHBOURS = 5  # the most that one of the scores looks for: there must be more samples
REAL_SEED = 0  # the same real clips in all evaluations
CACHE_FORMAT = 1


class Real(NamedTuple):
    """Features of real clips.

    Attributes:
      moments: of all of them.
      sample: float32 [n, d], the first ones, for scores that compare samples: as many as a repetition has.
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
    """24 hexadecimal digits of whatever JSON can hold."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def describe_real(data: DataConfig, manifest: Manifest, config: EvalConfig) -> dict[str, Any]:
    """Which real clips stand for the data, and how they were drawn."""
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
    """All that scores depend on besides the videos: equal ones make them comparable."""
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
    """Features of `real_passes` clips of each real video, on average; from the cache if they have been computed before.

    Args:
      network: what describes them.
      manifest: of the data set in `data.data_dir`.
      data: how training draws clips.
      config: `real_passes`, `num_samples`, `cache_dir`.
      describe: gives what the network says of each batch, where another machine asks it.
    Raises:
      ConfigError: no video has 16 frames.
      UserError: damaged data.
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
    """`score_answers`, of what networks say of videos on this machine."""
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
    """Scores videos. Memory does not grow with their number, but for scores that compare samples with one another.

    Args:
      scores: names, of `NETWORK_OF`.
      answers: what networks say of the videos, batch by batch, wherever they were asked.
      labels: of the classifier.
      real: by name of the network, features of real clips.
      config: `num_samples` and `repetitions`; fewer, where there are fewer videos.
      progress: show a bar.
      class_names: of a conditional generator, for `class_accuracy`; video number i is of class i % len(class_names).
    Returns:
      By name; with `class_accuracy` also that of every class, as `class_accuracy/NAME`.
    Raises:
      ConfigError: `class_accuracy` of a generator without classes, or of a class that the classifier does not know.
      UserError: too few videos, or some that are not finite.
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
                break  # a last part, smaller than the others, would have another bias
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
    """What one network said of the videos of one repetition."""

    def __init__(self, network: str, scores: Collection[str]) -> None:
        self.wanted = [score for score in scores if NETWORK_OF[score] == network]
        self.inception_score, self.moments = metrics.InceptionScore(), metrics.Moments()
        self.features: list[np.ndarray] = []
        self.correct: dict[int, list[bool]] = collections.defaultdict(list)  # by the classifier's number of the class

    def update(self, features: np.ndarray, probabilities: np.ndarray | None, asked_for: np.ndarray | None) -> None:
        """Adds what was said of videos, and the classifier's numbers of the classes that they were to be of."""
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
    """All that is needed to repeat an evaluation, and its results, in JSON.

    Args:
      scores: the results.
      generated: what was scored.
      described: what `describe_protocol` says.
      config: where files were, and what else was set.
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
    """Where a run keeps the report on a step; another protocol, or other scores, have another one."""
    return storage.join(model_dir, "evaluations", f"step-{step}-{digest(identity)[:8]}.json")


def show_scores(folder: str, scores: Mapping[str, Score], step: int) -> None:
    """Adds scores to the events of a run, or warns that it cannot: their report is written already."""
    try:
        with EventWriter(folder) as writer:
            write_summaries(writer, scores, step)
    except (OSError, tf.errors.OpError) as error:
        logging.warning("%s: the scores are not shown in TensorBoard: %s", folder, str(error).splitlines()[0])


def write_summaries(writer: tf.summary.SummaryWriter, scores: Mapping[str, Score], step: int) -> None:
    """TensorBoard's `eval/SCORE`, and `eval/SCORE_std` where there were repetitions; not yet flushed."""
    with writer.as_default(step):
        for name, score in scores.items():
            if name.startswith("class_accuracy/"):  # a card for each of many classes would bury the others
                continue
            tf.summary.scalar(f"eval/{name}", score.mean)
            if len(score.values) > 1:
                tf.summary.scalar(f"eval/{name}_std", score.std)
