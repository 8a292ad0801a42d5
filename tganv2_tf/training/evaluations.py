"""The callback that scores the averaged generator during training."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from tganv2_tf import storage
from tganv2_tf.config import Config
from tganv2_tf.data.manifest import Manifest, checksums
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation import protocol, validity
from tganv2_tf.evaluation.networks import NetworkOutputs, extract_batch_features, load_c3d_network, warn_if_unreliable
from tganv2_tf.evaluation.real_features import digest, real_features
from tganv2_tf.evaluation.report import describe_protocol, report, report_path, write_summaries
from tganv2_tf.evaluation.samples import NUM_FRAMES, generator_batch
from tganv2_tf.events import EventWriter
from tganv2_tf.models.recalibration import recalibrate
from tganv2_tf.runs import CHECKPOINT_DIR, checkpoint_files
from tganv2_tf.storage.files import write_atomically
from tganv2_tf.training.callbacks import StepCallback
from tganv2_tf.training.distribution import make_all_gather, make_any_reduce, num_workers, worker_number
from tganv2_tf.training.snapshots import best_score, keep_best

EVAL_SCORES = ("inception_score", "c3d_fid")


class Evaluations(StepCallback):
    """Scores the averaged generator every `eval_every_steps`, and keeps the best checkpoint in `best/`.

    Must follow `SaveCheckpoints`, which saves at each of these steps. The classifier is loaded and features of real
    clips are computed before training begins, so errors in them are raised at once.
    """

    def __init__(
        self,
        writer: EventWriter,
        config: Config,
        manifest: Manifest,
        chief: bool,
    ) -> None:
        super().__init__()
        self.writer, self.config, self.chief = writer, config, chief
        self.networks = {"c3d": load_c3d_network(config.eval)}
        labels = self.networks["c3d"].labels
        if chief:
            warn_if_unreliable(self.networks)
        self.class_names = manifest.labels if config.model.conditional else []
        self.scores = (*EVAL_SCORES, "class_accuracy") if config.model.conditional else EVAL_SCORES
        if config.model.conditional:
            validity.classifier_columns(self.class_names, labels)  # raises errors before real clips are read
        self.real = {"c3d": real_features(self.networks["c3d"], manifest, config.data, config.eval)}
        self.protocol_description = describe_protocol(self.networks, config.data, manifest, config.eval)
        if chief:
            few = validity.too_few(self.scores, config.eval.num_samples, self.real)
            for text in (*validity.other_classes(manifest.labels, labels), *few):
                logging.warning("%s", text)
        self.protocol = digest([self.scores, config.train.seed, self.protocol_description])
        self.best = best_score(config.train.model_dir, config.train.best_score, self.protocol)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        model = self.config.model
        length = model.num_frames if model.FIXED_LENGTH else NUM_FRAMES
        self.sample = tf.function(
            lambda z, labels: self.model.ema_generator(z, num_frames=length, labels=labels)[:, :NUM_FRAMES],
            autograph=False,
            reduce_retracing=True,
        )
        self.gather = make_all_gather(self.model.distribute_strategy)
        # If the run was stopped after saving but before scoring, score now. All workers take part if any of them does
        # not see the report, since a shared folder may be out of date.
        missing = self.step > 0 and not storage.exists(self._report(self.step))
        if make_any_reduce(self.model.distribute_strategy)(missing):
            self.on_step_end(self.step, {})

    @contextlib.contextmanager
    def _recalibrated(self) -> Iterator[None]:
        """Recalibrates the averaged generator's statistics within the block and restores them afterwards."""
        generator, num_batches = self.model.ema_generator, self.config.eval.recalibration_batches
        if not num_batches:
            yield
            return
        kept = [variable.numpy() for variable in generator.non_trainable_variables]
        recalibrate(generator, num_batches, self.config.train.seed)
        try:
            yield
        finally:
            for variable, value in zip(generator.non_trainable_variables, kept):
                variable.assign(value)

    def _network_outputs(self) -> Iterator[NetworkOutputs]:
        """Yields the classifier's outputs, batch by batch. Workers process consecutive batches in parallel."""
        config, model, strategy = self.config, self.config.model, self.model.distribute_strategy
        own, size = worker_number(strategy), config.eval.eval_batch_size
        for first in itertools.count(0, num_workers(strategy)):
            videos = generator_batch(self.sample, model.latent, config.train.seed, first + own, size, model.num_classes)
            features, probabilities = extract_batch_features(videos, ["c3d"], self.networks)["c3d"]
            assert probabilities is not None
            gathered = self.gather(np.concatenate([features, probabilities], axis=1))
            for worker_outputs in gathered:
                yield {"c3d": (worker_outputs[:, : features.shape[1]], worker_outputs[:, features.shape[1] :])}

    def _report(self, step: int) -> str:
        return report_path(self.config.train.model_dir, step, self.protocol)

    def on_step_end(self, step: int, logs: dict[str, Any]) -> None:
        train, config = self.config.train, self.config.eval
        if not train.is_due(step, train.eval_every_steps) or self.model.stop_training:
            return
        with self._recalibrated():
            scores = protocol.score_outputs(
                self.scores,
                self._network_outputs(),
                self.networks["c3d"].labels,
                self.real,
                config,
                progress=False,
                class_names=self.class_names,
            )
        value = scores[train.best_score].mean
        lower_is_better = train.best_score == "c3d_fid"
        is_best = self.best is None or (value < self.best if lower_is_better else value > self.best)
        shown = ", ".join(f"{name} {score.mean:.3f}" for name, score in scores.items() if name in self.scores)
        logging.info("Step %d: %s%s.", step, shown, ", the best so far" if is_best else "")
        write_summaries(self.writer, scores, step)
        self.writer.flush()
        if is_best:
            self.best = value
        if self.chief:
            checkpoint = storage.join(train.model_dir, CHECKPOINT_DIR, f"ckpt-{step}")
            generated = {"model_dir": train.model_dir, "step": step, "seed": train.seed}
            generated |= {
                "checkpoint": checksums(checkpoint_files(checkpoint)),
                "config": self.config.as_dict(),
            }
            try:
                if is_best:
                    keep_best(checkpoint, train.best_score, value, self.protocol)
                # Last, because the report marks the step as scored.
                write_atomically(self._report(step), report(scores, generated, self.protocol_description, config))
            except OSError as error:
                raise UserError(f"{train.model_dir}: the scores of step {step} cannot be saved: {error}") from error
