"""The evaluation protocol: numbers of videos and repetitions, and the scores of each repetition.

The paper's protocol: 10 repetitions of 2048 generated videos each; mean and standard deviation over the repetitions.
The inception score uses C3D's class probabilities. The Frechet distance uses the features fc7 (after ReLU, as in the
authors' code), with ten clips of each training video, sampled as in training.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from absl import logging
from tqdm import tqdm

from tganv2_tf.config import EvalConfig
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation import metrics
from tganv2_tf.evaluation.networks import Network, NetworkOutputs, explain_out_of_memory, extract_features
from tganv2_tf.evaluation.real_features import NEIGHBOURS, RealStatistics
from tganv2_tf.evaluation.samples import Batches, Rebatcher
from tganv2_tf.evaluation.score_names import SCORE_NETWORK
from tganv2_tf.evaluation.validity import classifier_columns

PAIRWISE_SCORES = {"kvd", "precision", "recall", "density", "coverage"}


@dataclasses.dataclass(frozen=True)
class Score:
    """Mean and standard deviation (divided by n) over the repetitions."""

    mean: float
    std: float
    values: list[float]

    @classmethod
    def from_values(cls, values: list[float]) -> Score:
        return cls(float(np.mean(values)), float(np.std(values)), values)


def evaluate(
    scores: Collection[str],
    batches: Batches,
    networks: Mapping[str, Network],
    real: Mapping[str, RealStatistics],
    config: EvalConfig,
    progress: bool = True,
    class_names: Sequence[str] = (),
) -> dict[str, Score]:
    """Runs the networks on this machine and applies `score_outputs`."""
    outputs = extract_features(batches, networks.keys(), networks)
    labels = networks["c3d"].labels if "c3d" in networks else ()
    return score_outputs(scores, outputs, labels, real, config, progress, class_names)


def score_outputs(
    scores: Collection[str],
    outputs: Iterator[NetworkOutputs],
    labels: Sequence[str],
    real: Mapping[str, RealStatistics],
    config: EvalConfig,
    progress: bool = True,
    class_names: Sequence[str] = (),
) -> dict[str, Score]:
    """Computes scores. Memory use grows with the number of videos only for scores that compare samples.

    Args:
      scores: names from `SCORE_NETWORK`.
      outputs: network outputs, batch by batch.
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
    stream = Rebatcher(outputs)
    columns = classifier_columns(class_names, labels) if "class_accuracy" in scores else None
    values: dict[str, list[float]] = collections.defaultdict(list)
    number = 0
    total = config.repetitions * config.num_samples
    with (
        explain_out_of_memory(),
        tqdm(total=total, desc="generated", unit="video", mininterval=1, disable=not progress) as bar,
    ):
        for repetition in range(config.repetitions):
            accumulators = {
                name: _ScoreAccumulator(name, scores) for name in {SCORE_NETWORK[score] for score in scores}
            }
            count = 0
            for batch in stream.take(config.num_samples):
                for name, accumulator in accumulators.items():
                    features, probabilities = batch[name]
                    numbers = range(number, number + len(features))
                    target_labels = None if columns is None else np.array([columns[i % len(columns)] for i in numbers])
                    accumulator.update(features, probabilities, target_labels)
                count, number = count + len(features), number + len(features)
                bar.update(len(features))
            if count < config.num_samples and repetition:
                break  # a smaller last repetition would have another bias
            if count <= NEIGHBOURS:
                raise UserError(f"{count} videos are too few to score; expected more than {NEIGHBOURS}")
            if count < config.num_samples:
                logging.warning("Only %d videos instead of --num_samples=%d.", count, config.num_samples)
            for name, accumulator in accumulators.items():
                for score, value in accumulator.scores(real.get(name)).items():
                    values[score].append(value)
    found = {name: Score.from_values(values[name]) for name in scores}
    if columns is not None:
        for name, column in zip(class_names, columns):
            found[f"class_accuracy/{name}"] = Score.from_values(values[f"class_accuracy/{column}"])
    return found


class _ScoreAccumulator:
    """Accumulates one network's outputs over one repetition."""

    def __init__(self, network: str, scores: Collection[str]) -> None:
        self.wanted = [score for score in scores if SCORE_NETWORK[score] == network]
        self.inception_score, self.moments = metrics.InceptionScore(), metrics.Moments()
        self.features: list[np.ndarray] = []
        self.class_counts: collections.Counter[int] = (
            collections.Counter()
        )  # predicted, by the classifier's class number
        self.correct: dict[int, list[bool]] = collections.defaultdict(list)  # by the classifier's class number

    def update(self, features: np.ndarray, probabilities: np.ndarray | None, target_labels: np.ndarray | None) -> None:
        """Adds a batch of outputs; `target_labels` holds the target classes by the classifier's numbers, int [n]."""
        if not np.isfinite(features).all():
            raise UserError("the videos or their network outputs are not finite; cannot compute scores")
        if "inception_score" in self.wanted and probabilities is not None:
            self.inception_score.update(probabilities)
        if "effective_classes" in self.wanted and probabilities is not None:
            self.class_counts.update(probabilities.argmax(1).tolist())
        if "class_accuracy" in self.wanted and probabilities is not None and target_labels is not None:
            for column, predicted in zip(target_labels, probabilities.argmax(1)):
                self.correct[int(column)].append(predicted == column)
        if {"c3d_fid", "fvd"} & set(self.wanted):
            self.moments.update(features)
        if PAIRWISE_SCORES & set(self.wanted):
            self.features.append(features)

    def scores(self, real: RealStatistics | None) -> dict[str, float]:
        found = {}
        if "inception_score" in self.wanted:
            found["inception_score"] = self.inception_score.result()
        if self.class_counts:
            found["effective_classes"] = metrics.effective_classes(np.array(list(self.class_counts.values())))
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
        class_scores = {f"class_accuracy/{column}": float(np.mean(correct)) for column, correct in self.correct.items()}
        if class_scores:
            found["class_accuracy"] = float(np.mean(list(itertools.chain.from_iterable(self.correct.values()))))
        return {score: found[score] for score in self.wanted} | class_scores
