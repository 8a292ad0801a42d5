"""The report of an evaluation: JSON, and TensorBoard's scalars."""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
import sys
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import scipy
import tensorflow as tf
from absl import logging

from tganv2_tf import __version__, storage
from tganv2_tf.config import DataConfig, EvalConfig
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.evaluation.networks import Network
from tganv2_tf.evaluation.protocol import Score
from tganv2_tf.evaluation.real_features import describe_real, digest
from tganv2_tf.events import EventWriter
from tganv2_tf.storage.files import Path


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


def report(
    scores: Mapping[str, Score], generated: Mapping[str, Any], protocol: Mapping[str, Any], config: EvalConfig
) -> str:
    """Returns a JSON report: the results, and everything needed to repeat the evaluation.

    Args:
      scores: the results.
      generated: description of the scored videos.
      protocol: result of `describe_protocol`.
      config: the options, including file paths.
    """
    contents = {
        "scores": {name: dataclasses.asdict(score) for name, score in scores.items()},
        "generated": generated,
        "protocol": protocol,
        "options": dataclasses.asdict(config),
        "versions": {
            "tganv2_tf": __version__,
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (tf, np, scipy, cv2)},
        },
        "command": sys.argv[1:],
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    return json.dumps(contents, indent=2) + "\n"


def report_path(model_dir: Path, step: int, identity: Any) -> str:
    """Returns the path of a run's report for a step; it differs between protocols and sets of scores."""
    return storage.join(model_dir, "evaluations", f"step-{step}-{digest(identity)[:8]}.json")


def show_scores(folder: str, scores: Mapping[str, Score], step: int) -> None:
    """Writes scores to TensorBoard. Failures are only logged, because the report is already written."""
    try:
        with EventWriter(folder) as writer:
            write_summaries(writer, scores, step)
    except (OSError, tf.errors.OpError) as error:
        logging.warning("%s: scores are not written to TensorBoard: %s", folder, str(error).splitlines()[0])


def write_summaries(writer: tf.summary.SummaryWriter, scores: Mapping[str, Score], step: int) -> None:
    """Writes `eval/SCORE`, and `eval/SCORE_std` if there are several repetitions, without flushing."""
    with writer.as_default(step):
        for name, score in scores.items():
            if name.startswith("class_accuracy/"):  # one chart per class would be too many
                continue
            tf.summary.scalar(f"eval/{name}", score.mean)
            if len(score.values) > 1:
                tf.summary.scalar(f"eval/{name}_std", score.std)
