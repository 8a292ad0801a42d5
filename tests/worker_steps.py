"""A few steps of plain gradient descent on numbers that all workers know: `python -m tests.worker_steps FILE.npz`.

A worker does the same as in `training.loop`, with two exceptions. It uses SGD, whose steps are proportional to the
gradients, while Adam's have the size of the learning rate. Its clips, latents and frame offsets are its part of those
of the global batch, which are the same for any number of workers.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import tensorflow as tf

from tests.conftest import tiny_config
from tests.test_tganv2 import reals
from tganv2_tf.config import Config
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.models.tganv2 import StepNoise, TGANv2
from tganv2_tf.training import loop
from tganv2_tf.training.distribution import make_strategy, num_workers, worker_number

STEPS, BATCH, RATE = 3, 8, 0.005
CONFIG = tiny_config(
    {"discriminator_channels": (4,)}, global_batch_size=BATCH, train_steps=STEPS, r1_weight=1.0, ema_decay=0.9
)


class Shared(TGANv2):
    """Draws its part of latents that do not depend on the number of workers."""

    def sample_noise(self, update: int, num_clips: int | tf.Tensor) -> StepNoise:
        drawn = super().sample_noise(update, num_clips)
        z = sample_latents(BATCH, self.config.model.z_dim, tf.stack([tf.constant(7, tf.int64), self.step]))
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        return drawn._replace(z=z[replica * num_clips : (replica + 1) * num_clips])

    @classmethod
    def make_optimizers(cls, config: Config) -> tuple[tf.keras.optimizers.Optimizer, ...]:
        return tf.keras.optimizers.SGD(RATE), tf.keras.optimizers.SGD(RATE)


def share(index: int, count: int) -> tf.data.Dataset:
    """Returns a batch as the worker's part of the data set would yield it."""
    each = [[tf.split(level, count)[index] for level in reals(CONFIG, seed=step)] for step in range(STEPS)]
    levels = tuple(tf.stack(level)[:, None] for level in zip(*each))  # an axis of steps, and one of n_dis
    labels = tf.zeros([STEPS, 1, BATCH // count], tf.int64)
    used = tf.one_hot([index] * STEPS, count, on_value=BATCH // count, dtype=tf.int64)
    return tf.data.Dataset.from_tensor_slices((levels, labels, used))


def weights(model: TGANv2) -> dict[str, np.ndarray]:
    networks: dict[str, tf.keras.Model] = {"G": model.generator, "D": model.discriminator, "EMA": model.ema_generator}
    return {
        f"{name}/{number}/{variable.name}": variable.numpy()
        for name, network in networks.items()
        for number, variable in enumerate(network.variables)
    }


def main(path: str) -> None:
    strategy = make_strategy("multi_worker" if "TF_CONFIG" in os.environ else "one_device")
    loop.model_class = lambda system: Shared
    with strategy.scope():
        model = loop.make_model(CONFIG)
    before = {f"before/{name}": value for name, value in weights(model).items()}
    losses = []

    def keep(_: int, logs: dict[str, float]) -> None:
        # Norms of gradients are means over the replicas' norms, not norms of the means.
        losses.append([logs[name] for name in sorted(logs) if not name.endswith("_norm")])

    model.fit(
        strategy.distribute_datasets_from_function(lambda _: share(worker_number(strategy), num_workers(strategy))),
        steps_per_epoch=STEPS,
        verbose=0,
        callbacks=[tf.keras.callbacks.LambdaCallback(on_batch_end=keep)],
    )
    used = model.data_position.numpy()
    np.savez(path, losses=np.array(losses), used=used, **before, **weights(model))


if __name__ == "__main__":
    main(sys.argv[1])
