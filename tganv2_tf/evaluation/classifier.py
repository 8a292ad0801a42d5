"""The one file that holds a classifier of one's own, a C3D, and what is known of how well it classifies.

The file is an .npz with the arrays of `c3d.C3D.to_arrays` and a text, `metadata`, in JSON: the network's shape, the
names of the classes, the accuracy on test videos, and all that the weights were made of.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import scipy.stats

from tganv2_tf.errors import UserError
from tganv2_tf.evaluation.c3d import C3D, C3DConfig
from tganv2_tf.files import Path, read_npz, whole_file

METADATA = "metadata"
FORMAT_VERSION = 1
WRITER = "tganv2_tf.train_classifier"
SIGNIFICANCE = 0.05


def save_classifier(network: C3D, metadata: dict[str, Any], path: Path) -> None:
    """Writes a network without a mean and its metadata; the file appears when it is whole.

    Raises:
      OSError: it cannot be written.
    """
    arrays = {**network.to_arrays(), METADATA: np.array(json.dumps(metadata))}
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a classifier.

    Returns:
      `format`; `shape`, the fields of `C3DConfig`; `labels`, names in the order of the probabilities; `test_accuracy`,
      the share of the `test_clips` clips of `test_videos` videos that are classified correctly; `chance`, the share of
      the clips that are of the most frequent class; `held_out_accuracy` and `held_out_videos`, of those that chose the
      stop; `tested_on_held_out`, whether the test videos are these; `steps` of the training and `best_step`, after
      which the weights were taken; `recipe`, the options and the checksums of the manifests that it was made of;
      `versions`. Files of older versions have no `chance`, and nothing of held-out videos and steps.
    Raises:
      UserError: no such file, or none that `train` has written.
    """
    return _metadata(read_npz(path, WRITER), path)


def _metadata(arrays: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    if METADATA not in arrays:
        raise UserError(
            f"{path}: {METADATA!r} is missing; valid: a file that {WRITER} wrote, or the authors' with --c3d_mean"
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
    """A classifier that `train_classifier` has written.

    Raises:
      UserError: no such file, none of ours, or a damaged one.
    """
    return read_classifier(path)[0]


def read_classifier(path: Path) -> tuple[C3D, dict[str, Any]]:
    """`load_classifier` and `read_metadata` at once."""
    arrays = read_npz(path, WRITER)
    metadata = _metadata(arrays, path)
    shape: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in metadata["shape"].items()}
    network = C3D(C3DConfig(**shape), labels=tuple(metadata["labels"]), name="classifier")
    network.assign_arrays(arrays, path)
    return network, metadata


def above_chance(accuracy: float, videos: int, chance: float) -> bool:
    """Whether guessing would rarely (p < 0.05, one-sided binomial test) classify as many of the videos correctly.

    Args:
      accuracy: share of the clips that are classified correctly.
      videos: from which the clips were cut; clips of one video are no independent trials.
      chance: share that guessing classifies correctly.
    """
    correct = round(accuracy * videos)
    return bool(scipy.stats.binom.sf(correct - 1, videos, chance) < SIGNIFICANCE)


def accuracy_summary(metadata: dict[str, Any]) -> str:
    """The accuracy that a classifier's metadata state, as a clause."""
    videos = (
        "videos held out of the training, which also chose its end"
        if metadata.get("tested_on_held_out")
        else ("test videos")
    )
    return (
        f"{metadata['test_accuracy']:.1%} of {metadata['test_clips']} clips of {metadata['test_videos']} {videos} "
        f"classified correctly ({len(metadata['labels'])} classes)"
    )


def doubt(metadata: dict[str, Any]) -> str:
    """What makes the scores of a classifier doubtful, in a sentence; empty if nothing does.

    It has learned if guessing would rarely reach its accuracy, and well enough if this is at least halfway from chance
    to 100 %.

    Args:
      metadata: what `read_metadata` returns; `test_accuracy`, `test_clips` and `test_videos` may be missing.
    """
    try:
        accuracy, videos = metadata["test_accuracy"], metadata["test_videos"]
        summary = accuracy_summary(metadata)
    except KeyError:
        return "its accuracy is not recorded, so that nothing is known of how much its scores mean"
    # A classifier of an older version; if it does not name its classes, its shape tells how many there are.
    num_classes = len(metadata["labels"]) or metadata["shape"]["num_classes"]
    chance = metadata.get("chance", 1 / num_classes)
    learned, well = above_chance(accuracy, videos, chance), accuracy >= (1 + chance) / 2
    if learned and well:
        return ""
    if learned:
        return f"it has not learned its classes well: {summary}, and {chance:.1%} by guessing; its scores mean little"
    if well:
        return f"its accuracy is uncertain: {summary}, too few videos to be sure that it is not by guessing"
    return f"it has not learned its classes: {summary}, and {chance:.1%} by guessing; its scores mean nothing"
