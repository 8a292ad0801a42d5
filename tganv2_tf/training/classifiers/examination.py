"""Validation of a classifier on held-out clips, and the weights with the best result."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tganv2_tf.config import DataConfig
from tganv2_tf.data.clips import normalize
from tganv2_tf.data.labelled import labelled_clips
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.records import source_video
from tganv2_tf.evaluation.c3d import C3D, NUM_FRAMES
from tganv2_tf.evaluation.classifier import above_chance
from tganv2_tf.training.classifiers.held_out import id_filter

WINDOWS = 4  # per record, at fixed positions


class Result(NamedTuple):
    """Accuracy in [0, 1], mean cross entropy in nats, and number of clips."""

    accuracy: float
    loss: float
    clips: int


class ClipEvaluator:
    """Evaluates a network on a fixed set of clips.

    Attributes:
      videos: number of source videos.
      chance: fraction of the clips in the most frequent class.
    """

    def __init__(
        self, network: C3D, manifest: Manifest, data_dir: str, labels: Mapping[str, int], batch_size: int
    ) -> None:
        """Builds the input pipeline.

        Args:
          network: the classifier.
          manifest: manifest of the data set in `data_dir`.
          data_dir: folder of the shards.
          labels: class numbers by record id; clips are cut from these records only.
          batch_size: clips per batch.
        """
        self.videos = len({source_video(record_id) for record_id in labels})
        self.chance = max(collections.Counter(labels.values()).values()) / len(labels)
        data = DataConfig(data_dir, flip=False, windows_per_record=WINDOWS)
        clips = labelled_clips(manifest, data, NUM_FRAMES, manifest.height, seed=0, keep=id_filter(labels))
        self._batches = clips.batch(batch_size)

        @tf.function(reduce_retracing=True, autograph=False)
        def classify(frames: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = network(normalize(frames))["fc8"]
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            return tf.argmax(logits, 1) == labels, losses

        self._classify = classify

    def result(self) -> Result:
        """Evaluates the current weights."""
        columns = zip(*(self._classify(frames, labels) for frames, labels in self._batches))
        correct, losses = (np.concatenate(column) for column in columns)
        return Result(float(np.mean(correct)), float(np.mean(losses)), len(correct))


class BestWeights(tf.Module):
    """Keeps the weights with the highest accuracy, in variables. Of equal accuracies, the lower loss wins.

    Attributes:
      accuracy: of these weights; -1 initially.
      loss: of these weights.
      step: training step at which they were taken.
      waited: validations since the accuracy last rose; counted only once the accuracy is above chance.
    """

    def __init__(self, network: C3D) -> None:
        super().__init__()
        self._trained = network.trainable_variables
        self._kept = [tf.Variable(tf.convert_to_tensor(weight), trainable=False) for weight in self._trained]
        self.accuracy = tf.Variable(-1.0, dtype=tf.float64, trainable=False)  # float32 would round it
        self.loss = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.waited = tf.Variable(0, dtype=tf.int64, trainable=False)

    def update(self, step: int, evaluator: ClipEvaluator) -> Result:
        """Evaluates the network and keeps its weights if they are the best so far."""
        result = evaluator.result()
        before = float(self.accuracy.numpy())
        if result.accuracy > before or (result.accuracy == before and result.loss < self.loss.numpy()):
            for kept, weight in zip(self._kept, self._trained):
                kept.assign(weight)
            for variable, value in ((self.accuracy, result.accuracy), (self.loss, result.loss), (self.step, step)):
                variable.assign(value)
        if result.accuracy > before:
            self.waited.assign(0)
        elif above_chance(before, evaluator.videos, evaluator.chance):
            self.waited.assign_add(1)
        return result

    def restore(self) -> None:
        """Assigns the best weights to the network."""
        for kept, weight in zip(self._kept, self._trained):
            weight.assign(kept)
