"""What the training of every system has in common: state, random numbers, averaging, and results over replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from tganv2_tf.config import Config


def _move_average(average: tf.Variable, variable: tf.Variable, rate: tf.Tensor) -> None:
    """Computes average += rate * (variable - average) with few passes over memory."""
    tf.raw_ops.ResourceApplyGradientDescent(var=average.handle, alpha=rate, delta=average - variable)


class Adversary(tf.keras.Model):
    """A generator and its opponents, trained by `fit`. Each system is a subclass.

    A subclass defines the networks (`create`, `make_generator`), their optimisers and the update of a step (`update`).
    A batch has three parts: pyramids of real clips with a leading axis n_dis, level l float32
    [n_dis, N_l, T_l, H_l, W_l, 3]; labels, int64 [n_dis, N_1]; and the number of slots each input pipeline used for it
    (see `data/pipeline.py`), int64 [num_pipelines]. Systems without levels have one, the whole clip, and n_dis is 1.
    Means are over the replica's batch and gradients are averaged over replicas, so results do not depend on the number
    of replicas that share a global batch.

    Attributes:
      NETWORKS: Classes of the trained networks by name, `generator` first; each network is an attribute, and has an
        optimiser `NAME_optimizer`.
      STATE: Names of further variables in checkpoints.
      ema_generator: Exponential moving average of the generator, including batch-norm statistics. It is the generator
        itself if `ema_decay` is 0.
      config: The configuration of the run.
      step: int64, number of generator updates so far.
      data_position: int64 [num_pipelines], number of slots used so far by each pipeline.
      restarts: int64, number of restarts from a checkpoint after non-finite losses. Each restart uses new random
        numbers.
    """

    NETWORKS: ClassVar[Mapping[str, Callable[..., tf.keras.Model]]]
    STATE: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, networks: Mapping[str, tf.keras.Model], config: Config, num_pipelines: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.config = config
        for name in self.NETWORKS:
            setattr(self, name, networks[name])
            setattr(self, f"{name}_optimizer", None)
        self.distribute_reduction_method = "first"  # the results are means over replicas already; fit would sum them
        self.step, self.restarts, self.data_position = (
            tf.Variable(
                tf.zeros(shape, tf.int64), trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
            )
            for shape in ([], [], [num_pipelines])
        )
        self.ema_generator = self.generator
        if config.train.ema_decay:
            self.ema_generator = self.make_generator(config.model, name="ema_generator")
            self.ema_generator.set_weights(self.generator.get_weights())

    @classmethod
    def make_generator(cls, config: Any, **kwargs: Any) -> tf.keras.Model:
        """Creates the generator, given the settings of the system's networks."""
        return cls.NETWORKS["generator"](config, **kwargs)

    @classmethod
    def create(cls, config: Config, num_pipelines: int = 1) -> Adversary:
        """Creates the networks, with initial weights from the global seed, and the model without optimisers."""
        return cls({name: make(config.model) for name, make in cls.NETWORKS.items()}, config, num_pipelines)

    @classmethod
    def make_optimizers(cls, config: Config) -> tuple[tf.keras.optimizers.Optimizer, ...]:
        """Creates the optimisers, in the order of `NETWORKS`."""
        raise NotImplementedError

    @classmethod
    def describe(cls, config: Config) -> Iterator[str]:
        """Yields lines about sizes and parameters of the networks, for `--dry_run`."""
        shape, train = config.model, config.train
        size = f"{shape.resolution}x{shape.resolution}"
        yield f"clips: {shape.num_frames} frames of {size}, {train.global_batch_size} per step"
        yield "network                 parameters"
        for name, network in cls.create(config).networks.items():
            count = sum(variable.shape.num_elements() for variable in network.trainable_variables)
            yield f"{name:<22}{count:>12,}"

    @property
    def global_batch_size(self) -> int:
        """Clips per step at level 1, over all replicas; it changes only in `begin_phase`."""
        return self.config.train.global_batch_size

    def begin_phase(self, step: int) -> int:
        """Prepares for training from a step.

        Returns:
          The step before which training must be interrupted and this be called again, because the batch size or the
          graph of a step changes. By default it is the last step of the run.
        """
        return self.config.train.train_steps

    def update(self, real_videos: Sequence[tf.Tensor], labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Updates all networks once; called by `train_step` on each replica.

        Args:
          real_videos: Levels of the real clips, level l float32 [n_dis, N_l, T_l, H_l, W_l, 3] in [-1, 1].
          labels: int64 [n_dis, N_1].
        Returns:
          Scalars to log, of this replica.
        """
        raise NotImplementedError

    def traced_gradients(self, real_videos: Sequence[tf.Tensor]) -> list[tuple[list[tf.Tensor], float]]:
        """Adds the gradients of a step to the current graph, to estimate their cost; nothing is updated.

        Args:
          real_videos: Placeholders of the levels, level l float32 [N_l, T_l, H_l, W_l, 3].
        Returns:
          Groups of gradients, with the number of times that each is computed per step, in the mean over the run. The
          first group determines the estimate of memory.
        """
        raise NotImplementedError

    def scalars(self) -> dict[str, tf.Tensor]:
        """Returns further scalars to log, computed only when they are logged."""
        return {}

    def compile(self, *optimizers: Any, **kwargs: Any) -> None:
        """Sets the optimisers, in the order of `NETWORKS`. The losses are set by the config."""
        super().compile(**kwargs)
        for name, optimizer in zip(self.NETWORKS, optimizers):
            setattr(self, f"{name}_optimizer", optimizer)
            optimizer.build(getattr(self, name).trainable_variables)

    @property
    def networks(self) -> dict[str, tf.keras.Model]:
        """The trained networks by name."""
        return {name: getattr(self, name) for name in self.NETWORKS}

    @property
    def optimizers(self) -> dict[str, Any]:
        """The optimisers by name of their networks."""
        return {name: getattr(self, f"{name}_optimizer") for name in self.NETWORKS}

    @property
    def state(self) -> dict[str, Any]:
        """All objects of a checkpoint, by their names in it."""
        optimizers = {f"{name}_optimizer": optimizer for name, optimizer in self.optimizers.items()}
        counters = ("step", "restarts", "data_position", *self.STATE)
        return {
            **self.networks,
            "ema_generator": self.ema_generator,
            **optimizers,
            **{name: getattr(self, name) for name in counters},
        }

    def seed_of_update(self, update: int) -> tf.Tensor:
        """Returns the stateless seed of update `update` of the current step, int64 [2], equal on all replicas."""
        fold_in = tf.random.experimental.stateless_fold_in
        run = tf.stack([tf.constant(self.config.train.seed, tf.int64), self.restarts])
        return fold_in(fold_in(run, self.step), update)

    @tf.autograph.experimental.do_not_convert  # no Python branch depends on a tensor; tracing is faster
    def train_step(self, data: tuple[Sequence[tf.Tensor], tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Updates all networks, the average and the counters; called by `fit` on each replica.

        Args:
          data: Levels of real clips, labels and slots used of this replica; see the class.
        Returns:
          Scalars, averaged over replicas.
        """
        real_videos, labels, used = data
        replica_context = tf.distribute.get_replica_context()
        results = self.update(real_videos, labels)
        self.step.assign_add(1)
        # all_reduce needs a tensor made on this replica: the strategy does not know the device of an input tensor.
        used = replica_context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(used))
        self.data_position.assign_add(used)
        if self.ema_generator is not self.generator:
            replica_context.merge_call(self._update_average)
        return replica_context.all_reduce(tf.distribute.ReduceOp.MEAN, results)

    def apply_gradients(self, name: str, gradients: Sequence[tf.Tensor]) -> None:
        """Applies a network's gradients. Optimisers sum them over replicas, so each is divided by their number."""
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        means = gradients if replicas == 1 else [gradient / replicas for gradient in gradients]
        self.optimizers[name].apply_gradients(zip(means, self.networks[name].trainable_variables))

    def _update_average(self, strategy: tf.distribute.Strategy) -> None:
        """Updates `ema_generator`. Early decay is (1 + t) / (10 + t), as in tf.train.ExponentialMovingAverage."""
        step = tf.cast(tf.convert_to_tensor(self.step), tf.float32)
        decay = tf.minimum(self.config.train.ema_decay, (1.0 + step) / (10.0 + step))
        for average, variable in zip(self.ema_generator.variables, self.generator.variables):
            strategy.extended.update(average, _move_average, args=(variable, 1.0 - decay))
