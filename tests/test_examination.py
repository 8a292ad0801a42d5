"""Accuracy of classifiers: the choice of test clips and of the best weights, and warnings."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.test_train_classifier import TINY, write_labelled
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.evaluation.c3d import C3D
from tganv2_tf.evaluation.classifier import above_chance, reliability_warning
from tganv2_tf.training.classifiers.examination import BestWeights, ClipEvaluator, Result


@pytest.fixture(autouse=True)
def eagerly():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def with_logits(*logits):
    """A network with the same output for all clips."""
    network = C3D(TINY)
    arrays = {name: np.zeros_like(array) for name, array in network.to_arrays().items()}
    arrays["fc8/b"][:] = logits
    network.assign_arrays(arrays, "by hand")
    return network


def test_an_examination_counts_the_clips_that_are_right(tmp_path):
    folder = write_labelled(tmp_path, [0, 1, 1, 0, 0])
    network = with_logits(0.0, np.log(3.0))  # probability 3/4 for class 1
    examination = ClipEvaluator(network, Manifest.load(folder), folder, {"v0": 0, "v1": 1, "v2": 1, "v3": 0}, 3)
    assert (examination.videos, examination.chance) == (4, 0.5)
    accuracy, loss, clips = examination.result()
    assert (accuracy, clips) == (0.5, 16), "four windows of each video that is asked for"
    assert loss == pytest.approx(-(np.log(0.25) + np.log(0.75)) / 2, rel=1e-5)
    segments = ClipEvaluator(network, Manifest.load(folder), folder, {"a#0001": 0, "a#0002": 0, "b": 1}, 3)
    assert (segments.videos, segments.chance) == (2, 2 / 3)


class Scripted(ClipEvaluator):
    """An examination with given results."""

    def __init__(self, *results, videos=40, chance=0.1):
        self.results, self.videos, self.chance = iter(results), videos, chance

    def result(self):
        accuracy, loss = next(self.results)
        return Result(accuracy, loss, 160)


def test_the_best_weights_are_kept_and_waiting_begins_above_chance():
    network = with_logits(0.0, 0.0)
    best = BestWeights(network)
    # 6 of 40 videos are not significantly more than a tenth, 11 are.
    script = [(0.15, 2.0), (0.15, 2.1), (0.10, 1.9), (0.28, 1.8), (0.28, 1.7), (0.20, 1.0), (0.30, 3.0), (0.30, 3.5)]
    examination, seen = Scripted(*script), []
    for step in range(1, len(script) + 1):
        network.fc8.bias.assign([float(step), 0.0])
        best.update(step, examination)
        seen.append((int(best.step), round(float(best.accuracy), 2), int(best.waited)))
    assert seen == [
        *((1, 0.15, 0), (1, 0.15, 0), (1, 0.15, 0)),  # no better than guessing: learning may not have started yet
        *((4, 0.28, 0), (5, 0.28, 1), (5, 0.28, 2)),  # the lower loss is kept, although the accuracy has not risen
        *((7, 0.30, 0), (7, 0.30, 1)),
    ]
    best.restore()
    assert network.fc8.bias.numpy().tolist() == [7.0, 0.0]


@pytest.mark.parametrize(
    ("accuracy", "videos", "chance", "expected"),
    [
        (1.0, 4, 0.5, False),  # 1/16 by chance
        (1.0, 5, 0.5, True),  # 1/32
        (0.6, 5, 0.1, True),  # three or more of five: 0.0086
        (0.4, 5, 0.1, False),  # two or more of five: 0.081
        (0.13, 80, 0.1, False),
        (0.2, 80, 0.1, True),
    ],
)
def test_above_chance_by_hand(accuracy, videos, chance, expected):
    assert above_chance(accuracy, videos, chance) is expected


def described(accuracy, videos, classes=10, **more):
    labels = [str(number) for number in range(classes)]
    return {"test_accuracy": accuracy, "test_clips": 4 * videos, "test_videos": videos, "labels": labels, **more}


def test_doubts():
    assert (
        reliability_warning(described(0.97, 80))
        == reliability_warning(described(0.55, 80))
        == reliability_warning(described(0.75, 80, classes=2))
        == ""
    )
    assert reliability_warning(described(0.13, 80)) == (
        "it has not learned its classes: 13.0% of 320 clips of 80 test videos classified correctly (10 classes), "
        "10.0% by chance; its scores are meaningless"
    )
    assert reliability_warning(described(0.54, 80)).startswith(
        "it has not learned its classes well: 54.0% of 320 clips"
    )
    assert reliability_warning(described(0.74, 80, classes=2)).startswith("it has not learned its classes well")
    assert reliability_warning(described(1.0, 4, classes=2)).startswith(
        "its accuracy is uncertain: 100.0% of 16 clips of 4 test videos"
    )
    # Most of the test videos are of one class: always guessing that class is right as often.
    assert "90.0% by chance" in reliability_warning(described(0.9, 80, chance=0.9))
    assert "80 held-out videos, also used for early stopping," in reliability_warning(
        described(0.13, 80, tested_on_held_out=True)
    )
    assert reliability_warning({"labels": ["a", "b"]}).startswith("its accuracy is not recorded")
