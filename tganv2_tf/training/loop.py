"""A run from config to last checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import tempfile

import tensorflow as tf
from absl import logging

from tganv2_tf.config import Config
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.data.pipeline import load_manifest, training_dataset
from tganv2_tf.data.reading import explain
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.models.discriminator import Discriminator
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.tganv2 import TGANv2
from tganv2_tf.training import callbacks
from tganv2_tf.training.checkpoints import (
    EVENTS_DIR,
    check_run,
    checkpoint_manager,
    initialize,
    latest_checkpoint,
    record_config,
    restore,
)
from tganv2_tf.training.distribution import (
    is_chief,
    make_strategy,
    num_workers,
    per_replica_batch_size,
    warn_without_gpu,
)
from tganv2_tf.training.summaries import record_hparams


def make_optimizer(config: Config, learning_rate: float, updates_per_step: int) -> tf.keras.optimizers.Optimizer:
    """Adam; the step size goes down to 0 over the run's steps where the config says so.

    A constant rate is a schedule too: as a plain number a checkpoint would hold it, and win over a changed flag.
    """
    train = config.train
    last_rate = 0.0 if train.learning_rate_decay == "linear" else learning_rate
    steps = train.train_steps * updates_per_step
    schedule = tf.keras.optimizers.schedules.PolynomialDecay(learning_rate, steps, last_rate)
    optimizer = tf.keras.optimizers.Adam(
        schedule,
        train.adam_beta1,
        train.adam_beta2,
        train.adam_epsilon,
        global_clipnorm=train.gradient_clip_norm or None,  # of the sum over replicas
    )
    if train.mixed_precision == "mixed_float16":
        return tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def make_model(config: Config) -> TGANv2:
    """The networks and their optimisers, in the scope of the strategy that is current."""
    tf.keras.utils.set_random_seed(config.train.seed)
    train = config.train
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(train.mixed_precision)  # layers take it when they are made
    try:
        model = TGANv2(Generator(config.model), Discriminator(config.model), config)
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)
    model.compile(
        make_optimizer(config, train.generator_learning_rate, 1),
        make_optimizer(config, train.discriminator_learning_rate, train.n_dis),
        jit_compile=train.jit_compile,
        steps_per_execution=train.steps_per_execution,
    )
    return model


def with_classes(config: Config, manifest: Manifest) -> Config:
    """The config, with the data set's number of classes where the model is conditional."""
    if not config.model.conditional:
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=len(manifest.labels)))


def describe(config: Config, strategy: tf.distribute.Strategy) -> str:
    """The resolved config, the level table and the devices, as `--dry_run` prints them."""
    if config.model.conditional and not config.model.num_classes:
        raise ConfigError("--num_classes=0: the number of classes is not known without --data_dir; give one of them")
    generator, discriminator = Generator(config.model), Discriminator(config.model)
    levels = generator.generator_levels
    first = generator.count_params() - sum(level.count_params() for level in levels)
    lines = [config.to_json(), "level  resolution  frames  batch  generator parameters  discriminator parameters"]
    lines.append(f"{'latent and recurrence':>29}{'':>7}{first:>22,}")
    for level, block, network in zip(config.model.pyramid.levels, levels, discriminator.level_discriminators):
        size = f"{level.size}x{level.size}"
        batch = level.batch_size(config.train.global_batch_size)
        lines.append(
            f"{level.number:>5}  {size:>10}  {level.frames:>6}  {batch:>5}  {block.count_params():>20,}  "
            f"{network.count_params():>24,}"
        )
    lines.append(f"total{'':>26}{generator.count_params():>22,}  {discriminator.count_params():>24,}")
    devices = strategy.extended.worker_devices
    share = per_replica_batch_size(config, strategy.num_replicas_in_sync)
    workers = num_workers(strategy)
    of_all = f" of this one of {workers} workers" if workers > 1 else ""
    lines.append(f"devices{of_all}: {', '.join(devices)}; {share} clips a step on each")
    return "\n".join(lines)


def reason(error: tf.errors.OpError) -> str:
    """The line of TensorFlow's report that says what happened, without the graph around it."""
    if isinstance(error, tf.errors.UnavailableError):
        return "another worker is gone"
    context = ("Graph execution error", "Detected at", "File ", "[[", "tf.", "The error could be from a previous")
    lines = [line.strip() for line in error.message.splitlines()]
    return next((line for line in reversed(lines) if line and not line.startswith(context)), lines[0])


def train(config: Config, dry_run: bool = False) -> int:
    """Trains, or goes on with, the run in `model_dir`.

    Args:
      config: the run.
      dry_run: print what would be done, and do nothing.
    Returns:
      The exit status: 0, or 128 + the signal that stopped the run.
    Raises:
      UserError: input that cannot be used, losses that are not finite, or a folder that cannot be written.
    """
    strategy = make_strategy(config.train.distribution)
    chief = is_chief(strategy)
    batch_size = per_replica_batch_size(config, strategy.num_replicas_in_sync)
    warn_without_gpu(config)
    if dry_run:
        if config.data.data_dir and config.model.conditional:
            config = with_classes(config, load_manifest(config.model, config.data))
        print(describe(config, strategy))
        return 0
    if not config.train.model_dir:
        raise ConfigError("--model_dir is missing: the folder of the run")
    if not chief:
        logging.set_verbosity(logging.WARNING)  # the chief says it
    manifest = load_manifest(config.model, config.data)
    config = with_classes(config, manifest)
    changes = check_run(config)
    if chief:
        os.makedirs(config.train.model_dir, exist_ok=True)  # now, where it fails at once if it must

    # The order in which a run resumes: networks and optimisers exist, the newest checkpoint overwrites them, and the
    # data goes on with an order of its own, drawn from the seed and the step.
    try:
        with strategy.scope():
            model = make_model(config)
    except tf.errors.OpError as error:
        raise UserError(f"the networks cannot be made: {reason(error)}") from error
    logging.info("%d videos in %s.", manifest.num_videos, config.data.data_dir)
    restored = latest_checkpoint(config.train.model_dir)
    with contextlib.ExitStack() as stack:
        # Workers other than the chief save too, for some values are means over all of them, and throw it away.
        folder = None if chief else stack.enter_context(tempfile.TemporaryDirectory())
        manager = checkpoint_manager(model, folder)
        if restored:
            restore(manager.checkpoint, restored)
            logging.info("Going on from step %d.", int(model.step.numpy()))
            for change in changes:
                logging.info("Changed: %s.", change)
        elif config.train.init_from:
            logging.info("A new run with the networks of %s.", initialize(model))
        else:
            logging.info("A new run.")
        return _fit(config, model, manager, manifest, batch_size, chief)


def _fit(
    config: Config,
    model: TGANv2,
    manager: tf.train.CheckpointManager,
    manifest: Manifest,
    batch_size: int,
    chief: bool,
) -> int:
    """Trains from the model's step to the last one; returns the exit status."""
    train, strategy = config.train, model.distribute_strategy
    first_step = int(model.step.numpy())
    if first_step >= train.train_steps:
        logging.info("Step %d of --train_steps=%d is done; nothing to do.", first_step, train.train_steps)
        return 0
    if first_step % train.steps_per_execution:
        value = train.steps_per_execution
        raise ConfigError(f"--steps_per_execution={value}: the run is at step {first_step}; valid: a divisor of it")
    writer = tf.summary.create_noop_writer()
    if chief:
        record_config(config, manifest.labels)
        record_hparams(config)
        writer = tf.summary.create_file_writer(os.path.join(train.model_dir, EVENTS_DIR))
    with writer.as_default(first_step):
        tf.summary.text("config", f"```\n{config.to_json()}```")
    dataset = strategy.distribute_datasets_from_function(
        lambda context: training_dataset(
            manifest,
            config.model,
            config.data,
            batch_size,
            train.n_dis,
            train.seed,
            first_step,
            context.num_input_pipelines,
            context.input_pipeline_id,
        )
    )
    checkpoints = callbacks.Checkpoints(manager, config, chief)
    profile = callbacks.Profile(os.path.join(train.model_dir, EVENTS_DIR), config)
    bar = callbacks.progress_bar(first_step, train.train_steps)
    by_all = [
        callbacks.StopOnNonFinite(config),
        callbacks.Scalars(writer, config),
        callbacks.Previews(writer, config),
        checkpoints,
        *([callbacks.Evaluations(writer, config, manifest, manager, chief)] if train.eval_every_steps else []),
    ]
    by_chief = [bar, *([profile] if train.profile_steps else [])]
    try:
        model.fit(
            dataset,
            steps_per_epoch=train.train_steps - first_step,
            verbose=0,
            callbacks=[*by_all, *by_chief] if chief else by_all,
        )
    except tf.errors.ResourceExhaustedError as error:
        raise UserError(f"out of memory: {reason(error)}; lower --global_batch_size") from error
    except tf.errors.OpError as error:
        damage = explain(error, manifest, config.data)
        if damage:
            raise UserError(damage) from error
        raise UserError(f"the run ended at step {int(model.step.numpy())}: {reason(error)}") from error
    finally:
        bar.close()
        checkpoints.restore_handlers()
        profile.stop()
        writer.close()
    checkpoints.on_any_worker(False)  # waits for the others, which miss the chief when it goes first
    return 128 + signal.Signals(checkpoints.stopped_by) if checkpoints.stopped_by else 0
