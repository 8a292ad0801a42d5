"""Finds the latent whose video is closest to a given clip, and shows the two side by side.

With a pixel loss, and with pixel and feature losses:
  python -m tganv2_tf.project --model_dir=runs/ucf101 --video=clip.avi --output=projected.mp4
  python -m tganv2_tf.project --model_dir=runs/ucf101 --video=clip.avi --output=projected.png --loss=both \\
    --classifier=classifier.npz

The clip is the centre square of the video, resized, with as many frames as in training. An .npz with the output's name
contains the latent `z`, its `label` if there are classes, the `losses` of all restarts at all steps, and `metadata` in
JSON.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import TYPE_CHECKING

from tganv2_tf import cli
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.options import option, require
from tganv2_tf.sampling.selection import parse_labels

if TYPE_CHECKING:
    from tganv2_tf.evaluation.c3d import C3D

SUFFIXES = (".mp4", ".gif", ".png")
DEFAULT_FPS, MAX_FPS = 10, 50
FEATURE_WEIGHT = 0.1  # relative to the pixel loss; makes both terms similar in size on the synthetic data


@dataclasses.dataclass(frozen=True)
class Command:
    """Clip to project, and search."""

    model_dir: str = option("a run, RUN/best, or a checkpoint such as RUN/snapshots/ckpt-10000")
    video: str = option("video to project: a file or a folder of frames")
    output: str = option(
        "file to write, the clip beside its reconstruction: .mp4, .gif or .png (two strips of frames)",
        destination="file",
    )
    first_frame: int = option("number of the clip's first frame in the video, from 0", 0)
    frame_step: int = option("frame step of the clip in the video; 0 = as in training", 0)
    labels: str = option("classes to try, named as for tganv2_tf.generate, such as Biking or 0-4; none = all", "")
    loss: str = option(
        "loss to minimize: pixel, feature = fc6 and fc7 of --classifier, or both", "pixel", ("pixel", "feature", "both")
    )
    classifier: str = option("C3D for the features: a file of tganv2_tf.train_classifier, or the authors'", "")
    c3d_mean: str = option("the authors' mean2.npz, with their weights in --classifier", "")
    candidates: int = option("latents sampled before the optimization", 256)
    restarts: int = option("number of best candidates to optimize; memory grows with it", 8)
    steps: int = option("Adam updates of each restart", 200)
    learning_rate: float = option("initial learning rate of Adam, which decays to 0", 0.1)
    seed: int = option("seed of the candidates", 0)
    fps: float = option(f"frames per second of the output; 0 = as in the data, or {DEFAULT_FPS} if unknown", 0.0)
    scale: int = option("enlarge the output by this factor, repeating pixels", 1)

    def __post_init__(self) -> None:
        suffix = pathlib.Path(self.output).suffix.lower()
        require(suffix in SUFFIXES, "output", self.output, f"a file name that ends with {', '.join(SUFFIXES)}")
        for name, least in (("first_frame", 0), ("frame_step", 0), ("restarts", 1), ("steps", 1), ("scale", 1)):
            require(getattr(self, name) >= least, name, getattr(self, name), f"a whole number of at least {least}")
        text = f"a whole number of at least --restarts={self.restarts}"
        require(self.candidates >= self.restarts, "candidates", self.candidates, text)
        require(0 <= self.seed < 2**31, "seed", self.seed, "a whole number from 0 to 2147483647")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a number above 0")
        require(0 <= self.fps <= MAX_FPS, "fps", self.fps, f"a number above 0, up to {MAX_FPS}, or 0")
        require(not self.c3d_mean or bool(self.classifier), "c3d_mean", self.c3d_mean, "with --classifier only")
        if (self.loss == "pixel") == bool(self.classifier):
            problem = "is not used" if self.classifier else "is missing"
            raise ConfigError(f"--classifier {problem} with --loss={self.loss}; valid: --loss=feature or both")


def load_features(command: Command, num_frames: int) -> C3D | None:
    """Loads the network of the feature loss; returns None without --classifier.

    Raises:
      ConfigError: it does not support clips of this length.
      UserError: the file does not exist or is damaged.
    """
    from tganv2_tf.evaluation.c3d import NUM_FRAMES, load_c3d
    from tganv2_tf.evaluation.classifier import load_classifier

    if not command.classifier:
        return None
    if num_frames != NUM_FRAMES:
        raise ConfigError(
            f"--loss={command.loss}: the classifier needs {NUM_FRAMES} frames, but the run's clips have {num_frames}; "
            "valid: pixel"
        )
    return load_c3d(command.classifier, command.c3d_mean) if command.c3d_mean else load_classifier(command.classifier)


def main(command: Command) -> int:
    import numpy as np
    import tensorflow as tf

    from tganv2_tf.data.clips import normalize
    from tganv2_tf.evaluation import projection
    from tganv2_tf.pretrained import load_generator
    from tganv2_tf.runs import Run
    from tganv2_tf.storage.files import atomic_file
    from tganv2_tf.video_io import videos

    run = Run.open(command.model_dir)
    generator, step = load_generator(run)
    config, class_names = run.config, run.class_names
    model = config.model
    labels = parse_labels(command.labels or "all", class_names) if command.labels or class_names else None
    frame_step = command.frame_step or config.data.frame_step
    clip = projection.read_clip(command.video, model.num_frames, model.resolution, command.first_frame, frame_step)
    target = normalize(tf.constant(clip), config.data.normalization)
    pixels = projection.pixel_loss(target, model.pyramid.num_levels)
    network = load_features(command, model.num_frames)
    features = None if network is None else projection.feature_loss(target, network)

    def render(z: tf.Tensor, labels: tf.Tensor | None) -> tf.Tensor:
        return generator(z, labels=labels)

    def loss(videos: tf.Tensor) -> tf.Tensor:
        if features is None:
            return pixels(videos)
        return features(videos) if command.loss == "feature" else pixels(videos) + FEATURE_WEIGHT * features(videos)

    try:
        found = projection.project(
            render,
            loss,
            model.latent,
            labels,
            candidates=command.candidates,
            restarts=command.restarts,
            steps=command.steps,
            learning_rate=command.learning_rate,
            seed=command.seed,
        )
    except tf.errors.ResourceExhaustedError as error:
        raise UserError("out of memory; lower --restarts") from error
    found_labels = None if found.label is None else tf.fill([2], found.label)
    first, last = videos.to_uint8(render(tf.constant([found.start, found.z]), found_labels).numpy())
    losses = found.losses[:, found.restart]
    result = {
        "start": {"loss": float(losses[0]), "psnr": projection.psnr(first, clip)},
        "end": {"loss": float(losses.min()), "psnr": projection.psnr(last, clip)},
    }
    for when, values in result.items():
        print(f"{when.capitalize():<6} loss {values['loss']:.5f}  PSNR {values['psnr']:.2f} dB")

    output = pathlib.Path(command.output)
    pair = videos.enlarge(np.stack([clip, last]), command.scale)
    if output.suffix.lower() == ".png":
        videos.write_image(output, videos.strip(pair))
    else:
        clip_fps = run.fps * config.data.frame_step / frame_step
        fps = command.fps or min(clip_fps or DEFAULT_FPS, MAX_FPS)
        videos.write_video(output, videos.grid(pair, columns=2), fps)
    arrays, class_text = {"z": found.z, "losses": found.losses}, ""
    if found.label is not None:
        arrays["label"], class_text = np.array(found.label), f" of class {class_names[found.label]}"
    metadata = {**result, "restart": found.restart, "step": step, "options": dataclasses.asdict(command)}
    arrays["metadata"] = np.array(json.dumps(metadata))
    with atomic_file(output.with_suffix(".npz")) as temporary:
        np.savez(temporary, **arrays)
    print(f"{output}: the clip beside or above its reconstruction{class_text}")
    print(f"{output.with_suffix('.npz')}: its latent")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "tganv2_tf.project", __doc__))
