"""File format of custom C3D classifiers, and checks of their accuracy.

The file is an .npz with the arrays of `c3d.C3D.to_arrays` and `metadata`, a JSON text: the architecture, the class
names, the accuracy on test videos, and the training options.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tganv2_tf.errors import UserError
from tganv2_tf.evaluation.c3d import C3D, C3DConfig
from tganv2_tf.storage.files import Path, atomic_file, read_npz

METADATA = "metadata"
FORMAT_VERSION = 1
WRITER = "tganv2_tf.train_classifier"
SIGNIFICANCE = 0.05


def save_classifier(network: C3D, metadata: dict[str, Any], path: Path) -> None:
    """Writes a network (without mean) and its metadata atomically.

    Raises:
      OSError: the file cannot be written.
    """
    arrays = {**network.to_arrays(), METADATA: np.array(json.dumps(metadata))}
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_metadata(path: Path) -> dict[str, Any]:
    """Reads the metadata of a classifier.

    Returns:
      `format`; `shape`, the fields of `C3DConfig`; `labels`, class names in the order of the probabilities;
      `test_accuracy`, the fraction of the `test_clips` clips of `test_videos` videos that are classified correctly;
      `chance`, the fraction of the clips in the most frequent class; `held_out_accuracy` and `held_out_videos` of the
      validation set used for early stopping; `tested_on_held_out`, whether the test set is this validation set;
      `steps`, the length of the training; `best_step`, at which the weights were taken; `recipe`, the options and the
      manifests' checksums; `versions`. Files of older versions lack `chance` and the fields about held-out videos and
      steps.
    Raises:
      UserError: the file does not exist or was not written by `save_classifier`.
    """
    return _metadata(read_npz(path, WRITER), path)


def _metadata(arrays: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    if METADATA not in arrays:
        raise UserError(
            f"{path}: {METADATA!r} is missing; valid: a file written by {WRITER}, or the authors' with --c3d_mean"
        )
    try:
        metadata = json.loads(str(arrays[METADATA]))
        version = metadata["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: {METADATA!r} cannot be read: {error}") from error
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: its format is {version}; this code reads {FORMAT_VERSION}")
    return metadata


def load_classifier(path: Path) -> C3D:
    """Loads a classifier written by `train_classifier`.

    Raises:
      UserError: the file does not exist, is damaged, or has another format.
    """
    return read_classifier(path)[0]


def read_classifier(path: Path) -> tuple[C3D, dict[str, Any]]:
    """Returns the results of both `load_classifier` and `read_metadata`."""
    arrays = read_npz(path, WRITER)
    metadata = _metadata(arrays, path)
    shape: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in metadata["shape"].items()}
    network = C3D(C3DConfig(**shape), labels=tuple(metadata["labels"]), name="classifier")
    network.assign_arrays(arrays, path)
    return network, metadata


def above_chance(accuracy: float, videos: int, chance: float) -> bool:
    """Returns whether the accuracy is significantly above chance (p < 0.05, one-sided binomial test).

    Args:
      accuracy: fraction of the clips classified correctly.
      videos: number of source videos, used as the number of trials: clips of one video are not independent.
      chance: expected accuracy of guessing.
    """
    import scipy.stats  # imported here, because every training command imports this module

    correct = round(accuracy * videos)
    return bool(scipy.stats.binom.sf(correct - 1, videos, chance) < SIGNIFICANCE)


def accuracy_summary(metadata: dict[str, Any]) -> str:
    """Returns the accuracy recorded in the metadata, as a clause."""
    videos = "held-out videos, also used for early stopping," if metadata.get("tested_on_held_out") else "test videos"
    return (
        f"{metadata['test_accuracy']:.1%} of {metadata['test_clips']} clips of {metadata['test_videos']} {videos} "
        f"classified correctly ({len(metadata['labels'])} classes)"
    )


def reliability_warning(metadata: dict[str, Any]) -> str:
    """Returns why scores from this classifier are unreliable, as a sentence; empty if they are reliable.

    A reliable classifier is significantly above chance, and its accuracy is at least halfway from chance to 100 %.

    Args:
      metadata: from `read_metadata`; `test_accuracy`, `test_clips` and `test_videos` may be missing.
    """
    try:
        accuracy, videos = metadata["test_accuracy"], metadata["test_videos"]
        summary = accuracy_summary(metadata)
    except KeyError:
        return "its accuracy is not recorded; its scores may be unreliable"
    # Files of older versions have no `chance`, and may have no class names.
    num_classes = len(metadata["labels"]) or metadata["shape"]["num_classes"]
    chance = metadata.get("chance", 1 / num_classes)
    significant, accurate = above_chance(accuracy, videos, chance), accuracy >= (1 + chance) / 2
    if significant and accurate:
        return ""
    if significant:
        return f"it has not learned its classes well: {summary}, {chance:.1%} by chance; its scores are unreliable"
    if accurate:
        return f"its accuracy is uncertain: {summary}, too few videos to rule out chance"
    return f"it has not learned its classes: {summary}, {chance:.1%} by chance; its scores are meaningless"
