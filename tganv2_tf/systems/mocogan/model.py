"""MoCoGAN's training (Tulyakov, Liu, Yang & Kautz, arXiv 1707.04993), as in the authors' code."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Union

import tensorflow as tf

from tganv2_tf.config import Config
from tganv2_tf.models.adversary import Adversary
from tganv2_tf.models.latents import sample_latents
from tganv2_tf.models.optimizers import PyTorchAdam, make_adam
from tganv2_tf.options import require
from tganv2_tf.systems.mocogan.config import DISCRIMINATORS
from tganv2_tf.systems.mocogan.discriminators import Discriminator, make_discriminator
from tganv2_tf.systems.mocogan.networks import Generator

fold_in = tf.random.experimental.stateless_fold_in
Number = Union[int, tf.Tensor]
Gradients = tuple[dict[str, tf.Tensor], list[tf.Tensor]]  # losses by name, and the gradients of an update


def real_loss(logits: tf.Tensor) -> tf.Tensor:
    """Returns the mean cross-entropy of logits with the label "real"."""
    return tf.reduce_mean(tf.nn.softplus(-logits))


def fake_loss(logits: tf.Tensor) -> tf.Tensor:
    """Returns the mean cross-entropy of logits with the label "generated"."""
    return tf.reduce_mean(tf.nn.softplus(logits))


def category_loss(logits: tf.Tensor, categories: tf.Tensor) -> tf.Tensor:
    """Returns the mean cross-entropy of logits [N, K] with categories, int [N]."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(categories, logits))


class Draws(NamedTuple):
    """Random inputs of the generator.

    Attributes:
      z: float32 [N, z_dim].
      labels: int32 [N], in a conditional model.
    """

    z: tf.Tensor
    labels: tf.Tensor | None = None


class FrameDraws(NamedTuple):
    """Random inputs of the generator for single frames; `frames` are their numbers, int32 [N]. See `Draws`."""

    z: tf.Tensor
    frames: tf.Tensor
    labels: tf.Tensor | None = None


class RealData(NamedTuple):
    """Real data of a step.

    Attributes:
      images: float32 [n, H, W, 3].
      videos: float32 [N, T, H, W, 3], other clips than those of the images.
      labels: int64 [N], of the videos.
    """

    images: tf.Tensor
    videos: tf.Tensor
    labels: tf.Tensor


class Model(Adversary):
    """MoCoGAN. A step updates the discriminators of images and of videos, then the generator by both.

    Each update generates its own images and clips. The authors render images from frames of many sequences, drawn
    without replacement. Here each image is a random frame of a separate sequence, which is the same distribution except
    for their rare images of equal sequences.
    """

    NETWORKS: ClassVar[Mapping[str, Any]] = {
        "generator": Generator,
        **{name: functools.partial(make_discriminator, name) for name in DISCRIMINATORS},
    }
    generator: Generator
    image_discriminator: Discriminator
    video_discriminator: Discriminator

    @classmethod
    def create(cls, config: Config, num_pipelines: int = 1) -> Adversary:
        images, batch = config.model.image_clips, config.train.global_batch_size
        require(images < batch, "image_clips", images, f"a number below --global_batch_size={batch}")
        require(batch >= 2, "global_batch_size", batch, "at least 2, a clip for each discriminator")
        return super().create(config, num_pipelines)

    @classmethod
    def make_optimizers(cls, config: Config) -> tuple[tf.keras.optimizers.Optimizer, ...]:
        train = config.train
        rates = train.generator_learning_rate, *[train.discriminator_learning_rate] * len(DISCRIMINATORS)
        return tuple(make_adam(train, rate, kind=PyTorchAdam) for rate in rates)

    @classmethod
    def describe(cls, config: Config) -> Iterator[str]:
        yield from super().describe(config)
        images = num_images(config, config.train.global_batch_size)
        videos = config.train.global_batch_size - images
        yield f"real data per step: {videos} clips, and a frame of each of {images} others"

    def split(self, clips: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> RealData:
        """Divides the real clips between the discriminators, and takes a random frame of each clip of the images.

        A single clip, on a replica with a batch of 1, is used for both.

        Args:
          clips: float32 [N, T, H, W, 3].
          labels: int64 [N].
          seed: Stateless seed of the frames.
        """
        total = clips.shape[0] or tf.shape(clips)[0]
        images = num_images(self.config, total)
        videos = max(total - images, 1) if isinstance(total, int) else tf.maximum(total - images, 1)
        frames = tf.random.stateless_uniform([images], seed, 0, clips.shape[1], tf.int32)
        chosen = tf.gather(clips[total - images :], frames[:, tf.newaxis], batch_dims=1)[:, 0]
        return RealData(chosen, clips[:videos], labels[:videos])

    def draw(self, num: Number, seed: tf.Tensor) -> Draws:
        """Draws the random inputs of clips."""
        shape, labels = self.config.model, None
        if shape.conditional:
            labels = tf.random.stateless_uniform([num], fold_in(seed, 1), 0, shape.num_classes, tf.int32)
        return Draws(sample_latents(num, shape.latent, fold_in(seed, 0)), labels)

    def draw_frames(self, num: Number, seed: tf.Tensor) -> FrameDraws:
        """Draws the random inputs of single frames."""
        z, labels = self.draw(num, seed)
        frames = tf.random.stateless_uniform([num], fold_in(seed, 2), 0, self.config.model.num_frames, tf.int32)
        return FrameDraws(z, frames, labels)

    def image_discriminator_update(self, real: RealData, draws: FrameDraws, seed: tf.Tensor) -> Gradients:
        """Computes loss and gradients of the discriminator of images, given the stateless seed of its noise."""
        fakes = self.generator.images(draws.z, draws.frames, draws.labels, training=True)
        network = self.image_discriminator
        with tf.GradientTape() as tape:
            of_real = network(real.images, training=True, seed=fold_in(seed, 0))
            of_fake = network(fakes, training=True, seed=fold_in(seed, 1))
            loss = real_loss(of_real.real) + fake_loss(of_fake.real)
        return {"image_discriminator_loss": loss}, tape.gradient(loss, network.trainable_variables)

    def video_discriminator_update(self, real: RealData, draws: Draws, seed: tf.Tensor) -> Gradients:
        """Computes losses and gradients of the discriminator of videos, given the stateless seed of its noise.

        A conditional model has a further loss, of the classes of the real videos.
        """
        fakes = self.generator(draws.z, labels=draws.labels, training=True)
        network = self.video_discriminator
        with tf.GradientTape() as tape:
            of_real = network(real.videos, training=True, seed=fold_in(seed, 0))
            of_fake = network(fakes, training=True, seed=fold_in(seed, 1))
            losses = {"video_discriminator_loss": real_loss(of_real.real) + fake_loss(of_fake.real)}
            if self.config.model.conditional:
                losses["real_category_loss"] = category_loss(of_real.categories, real.labels)
            total = sum(losses.values())
        return losses, tape.gradient(total, network.trainable_variables)

    def generator_update(self, images: FrameDraws, videos: Draws, seed: tf.Tensor) -> Gradients:
        """Computes losses and gradients of the generator, given the stateless seed of the discriminators' noise.

        With `infogan`, there is a further loss, of the categories of the generated videos.
        """
        shape = self.config.model
        with tf.GradientTape() as tape:
            frames = self.generator.images(images.z, images.frames, images.labels, training=True)
            of_images = self.image_discriminator(frames, training=True, seed=fold_in(seed, 0))
            clips = self.generator(videos.z, labels=videos.labels, training=True)
            of_videos = self.video_discriminator(clips, training=True, seed=fold_in(seed, 1))
            losses = {"generator_loss": real_loss(of_images.real) + real_loss(of_videos.real)}
            if shape.recognised_categories:
                drawn = videos.z[:, shape.num_normal :]
                categories = tf.argmax(drawn, 1) if videos.labels is None else videos.labels
                losses["fake_category_loss"] = category_loss(of_videos.categories, categories)
            total = sum(losses.values())
        return losses, tape.gradient(total, self.generator.trainable_variables)

    def _seeds(self, update: int) -> list[tf.Tensor]:
        """Returns stateless seeds of an update of the current step on this replica: of noise, and of two draws."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = fold_in(self.seed_of_update(update), replica)
        return [fold_in(seed, part) for part in range(3)]

    def update(self, real_videos: Sequence[tf.Tensor], labels: tf.Tensor) -> dict[str, tf.Tensor]:
        noise, first, second = self._seeds(0)
        real = self.split(real_videos[0][0], labels[0], first)
        images, videos = (values.shape[0] or tf.shape(values)[0] for values in (real.images, real.videos))
        computed = self.image_discriminator_update(real, self.draw_frames(images, second), noise)
        results = self._apply("image_discriminator", computed)
        noise, first, _ = self._seeds(1)
        computed = self.video_discriminator_update(real, self.draw(videos, first), noise)
        results |= self._apply("video_discriminator", computed)
        noise, first, second = self._seeds(2)
        computed = self.generator_update(self.draw_frames(images, first), self.draw(videos, second), noise)
        return results | self._apply("generator", computed)

    def _apply(self, name: str, computed: Gradients) -> dict[str, tf.Tensor]:
        """Updates a network, with weight decay; returns the losses and the norm of the gradients without it."""
        losses, gradients = computed
        variables, decay = self.networks[name].trainable_variables, self.config.model.weight_decay
        self.apply_gradients(name, [g + decay * tf.convert_to_tensor(v) for g, v in zip(gradients, variables)])
        return {**losses, f"{name}_gradient_norm": tf.linalg.global_norm(gradients)}

    def traced_gradients(self, real_videos: Sequence[tf.Tensor]) -> list[tuple[list[tf.Tensor], float]]:
        (clips,) = real_videos
        seed = tf.constant([0, 0], tf.int64)
        real = self.split(clips, tf.zeros(clips.shape[:1], tf.int64), seed)
        images, videos = self.draw_frames(real.images.shape[0], seed), self.draw(real.videos.shape[0], seed)
        updates = (  # the generator's needs the most memory
            self.generator_update(images, videos, seed),
            self.image_discriminator_update(real, images, seed),
            self.video_discriminator_update(real, videos, seed),
        )
        return [(gradients, 1) for _, gradients in updates]


def num_images(config: Config, num_clips: Number) -> Any:
    """Returns how many of the clips of a replica the discriminator of images gets: the global batch's share.

    It is rounded down, but at least 1.
    """
    batch = config.train.global_batch_size
    share = num_clips * (config.model.image_clips or batch // 2) // batch
    return max(share, 1) if isinstance(share, int) else tf.maximum(share, 1)
