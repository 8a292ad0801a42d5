"""Checks for unreliable scores: a classifier of other classes, or fewer samples than features."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tganv2_tf.data.class_names import MAX_LISTED, quoted
from tganv2_tf.errors import ConfigError

if TYPE_CHECKING:
    from tganv2_tf.evaluation.real_features import RealStatistics

FRECHET = {"c3d": "c3d_fid", "i3d": "fvd"}  # the Frechet distance of each network's features
PAPER_SAMPLES = 2048  # below 4096 features, but all scores by the paper's protocol share this bias


def classifier_columns(class_names: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Returns the index of each generator class in the classifier's probabilities.

    Args:
      class_names: classes of the generator.
      labels: classes of the classifier, which may have more.
    Raises:
      ConfigError: either has no class names, or the classifier lacks a class.
    """
    if not class_names:
        raise ConfigError("--scores=class_accuracy: the videos have no classes; train with --conditional")
    if not labels:
        raise ConfigError("--classifier: its class names are unknown; train one with tganv2_tf.train_classifier")
    columns = _columns(class_names, labels)
    if len(columns) < len(class_names):
        unknown = [name for name in class_names if name not in columns]
        raise ConfigError(
            f"--classifier: it lacks the class {quoted(unknown, MAX_LISTED)}; its classes are "
            f"{quoted(labels, MAX_LISTED)}; train one on the same classes"
        )
    return [columns[name] for name in class_names]


def other_classes(class_names: Sequence[str], labels: Sequence[str]) -> Iterator[str]:
    """Yields a warning if a classifier lacks classes of the data; none if either side has no class names.

    Args:
      class_names: classes of the data.
      labels: classes of the classifier.
    """
    columns = _columns(class_names, labels)
    unknown = [name for name in class_names if name not in columns]
    if labels and unknown:
        yield (
            f"The classifier was not trained on all classes of the data: it lacks {quoted(unknown, MAX_LISTED)}. Its "
            "scores are unreliable for such videos and comparable only with other scores of the same classifier."
        )


def too_few(scores: Collection[str], generated: int, real: Mapping[str, RealStatistics]) -> Iterator[str]:
    """Yields warnings if a Frechet distance has fewer samples than features: the covariance is then singular.

    Args:
      scores: names of the scores.
      generated: videos per repetition.
      real: features of real clips, by network name.
    """
    for network, (moments, _) in sorted(real.items()):
        score, features = FRECHET[network], moments.mean.size
        if score not in scores:
            continue
        bias = f"for {features} features. With fewer samples than features it is too large and comparable only with"
        if generated < min(features, PAPER_SAMPLES):
            yield f"{score}: {generated} generated videos {bias} scores of as many videos; raise --num_samples."
        if moments.count < features:
            yield f"{score}: {moments.count} real clips {bias} scores of the same clips; raise --real_passes."


def _columns(class_names: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """Maps known class names to columns, ignoring case if needed: it differs between copies of UCF101."""
    exact = {label: column for column, label in enumerate(labels)}
    folded = {label.casefold(): column for label, column in exact.items()}
    found = {name: exact.get(name, folded.get(name.casefold())) for name in class_names}
    return {name: column for name, column in found.items() if column is not None}
