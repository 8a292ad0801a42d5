"""The projector: reachable clips are found, with losses whose values are known by hand."""

from __future__ import annotations

import functools
import json
import types
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import tensorflow as tf

from data_prep.moving_shapes import write_video
from tests.conftest import run_command, tiny_config
from tganv2_tf import cli, pretrained, project
from tganv2_tf.config import ModelConfig
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation import projection
from tganv2_tf.evaluation.c3d import C3D, C3DConfig
from tganv2_tf.evaluation.classifier import save_classifier
from tganv2_tf.models.generator import Generator
from tganv2_tf.pretrained import load_generator
from tganv2_tf.video_io.decoding import open_video
from tganv2_tf.video_io.geometry import fit
from tganv2_tf.video_io.videos import to_uint8

CLASSES = ("left", "right", "up")
WANTED = [[0.5, -0.3]]
MODEL = {"z_dim": 2, "lstm_forget_bias": 3.0}  # with more dimensions several latents would give about the same video


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(40, 64), (50, 40), (12, 20)])  # wide, high, smaller than requested
def test_clips_are_cut_as_data_prep_cuts_them(tmp_path, shape):
    write_video(tmp_path / "clip.avi", noise(9, *shape, 3))
    frames = [fit(frame, "paper", 16) for frame in open_video(tmp_path / "clip.avi").frames]
    clip = projection.read_clip(tmp_path / "clip.avi", 3, 16, first_frame=2, frame_step=3)
    np.testing.assert_array_equal(clip, np.stack(frames)[[2, 5, 8]])
    with pytest.raises(UserError, match=r"clip.avi: 9 frames; a clip of 3 frames needs the first 10"):
        projection.read_clip(tmp_path / "clip.avi", 3, 16, first_frame=3, frame_step=3)


def test_pixel_loss_by_hand():
    target = tf.zeros([2, 8, 8, 3])
    board = np.indices((8, 8)).sum(0) % 2 * 2.0 - 1.0  # alternating -1 and 1: vanishes at half the size
    videos = np.stack([np.broadcast_to(board[None, :, :, None], (2, 8, 8, 3)), np.full((2, 8, 8, 3), 0.5)])
    loss = projection.pixel_loss(target, 2)(tf.constant(videos, tf.float32))
    np.testing.assert_allclose(loss, [(1 + 0) / 2, 0.25], atol=1e-7)
    np.testing.assert_allclose(projection.pixel_loss(target, 1)(tf.constant(videos, tf.float32)), [1, 0.25])


def test_feature_loss_by_hand():
    def network(videos):
        first, second = tf.unstack(tf.reshape(videos, [-1, 2]), axis=1)
        return {"fc6": tf.stack([first, second], 1), "fc7": 10.0 * second[:, tf.newaxis]}

    loss_of = projection.feature_loss(tf.constant([3.0, 4.0]), network)  # type: ignore[arg-type]
    loss = loss_of(tf.constant([[0.0, 4.0], [3.0, 3.0], [3.0, 4.0]]))
    # fc6 is (3, 4), with square 25; fc7 is 40, and 30 instead is off by a sixteenth of its square.
    np.testing.assert_allclose(loss, [9 / 25 / 2, (1 / 25 + 1 / 16) / 2, 0], rtol=1e-6)


def test_psnr_by_hand():
    black, white = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 255, np.uint8)
    assert projection.psnr(black, white) == 0 == projection.psnr(white, black)
    assert projection.psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-4)  # 20 log10 255
    assert projection.psnr(white, white) == np.inf


def test_every_class_may_start_before_any_starts_twice():
    losses = np.array([0.3, 0.1, 0.2, 0.05])
    assert projection.best_first(losses, None).tolist() == [3, 1, 2, 0]
    assert projection.best_first(losses, np.array([7, 7, 2, 7])).tolist() == [3, 2, 1, 0]


def search(target, labels=None, **changes):
    """Projects onto videos that equal the latents, shifted by 3 for every class other than class 2."""
    options = {"candidates": 20, "restarts": 4, "steps": 60, "learning_rate": 0.1, "seed": 0, **changes}

    def render(z, of):
        return z if of is None else z + 3.0 * tf.cast(of - 2, tf.float32)[:, tf.newaxis]

    def loss(videos):
        return tf.reduce_sum(tf.square(videos - target), 1)

    return projection.project(render, loss, 2, labels, **options)


def test_the_nearest_latent_of_the_cube_is_found():
    found = search([0.5, -2.0])
    np.testing.assert_allclose(found.z, [0.5, -1.0], atol=1e-3)
    assert found.losses.shape == (61, 4) and found.label is None
    np.testing.assert_allclose(found.losses[-1], 1.0, atol=1e-3)  # (-2 - -1)^2, from any start
    # The starts are the best candidates, and the first row of losses is theirs.
    start = np.sum(np.square(found.start - [0.5, -2.0]))
    assert found.losses[0, found.restart] == pytest.approx(start, rel=1e-5)
    assert np.all(np.diff(found.losses[0]) >= 0)
    more = search([0.5, -2.0], restarts=20)
    np.testing.assert_array_equal(np.sort(more.losses[0])[:4], found.losses[0])


def test_the_class_is_found_too():
    found = search([0.5, -0.5], labels=[0, 2, 5])
    assert found.label == 2
    np.testing.assert_allclose(found.z, [0.5, -0.5], atol=0.01)
    assert search([0.5, -0.5], labels=[5]).label == 5


def test_the_seed_decides_and_the_best_of_all_steps_is_kept():
    first, again, other = (search([0.5, 0.5], seed=seed, steps=3) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.losses, again.losses)
    np.testing.assert_array_equal(first.z, again.z)
    assert not np.isin(other.losses[0], first.losses[0]).any()
    wild = search([0.5, 0.5], learning_rate=50.0, steps=1)  # to the corners of the cube
    assert wild.losses[1].min() > wild.losses[0].min()
    np.testing.assert_array_equal(wild.z, wild.start)


def test_another_than_the_first_may_win():
    def loss(z):
        squares = tf.square(z[:, 0])
        return tf.where(z[:, 0] < 0, squares, tf.stop_gradient(squares))  # values above 0 have no gradient

    winners = set()
    for seed in range(3):
        found = projection.project(lambda z, _: z, loss, 2, None, 20, 4, 20, 0.05, seed)
        winners.add(found.restart)
        assert found.z[0] ** 2 == pytest.approx(found.losses.min(), rel=1e-5)
        assert found.start[0] ** 2 == pytest.approx(found.losses[0, found.restart], rel=1e-5)
        assert np.argmin(found.losses.min(0)) == found.restart
    assert winners - {0}


def made_generator(**model):
    """A tiny generator with the statistics of its own batch, so that its videos vary strongly with the latent."""
    tf.keras.utils.set_random_seed(0)
    generator = Generator(ModelConfig(**{**vars(tiny_config().model), **MODEL, **model}))
    labels = tf.range(12) % len(CLASSES) if generator.config.conditional else None
    generator.pyramid(tf.random.stateless_uniform([12, 2], [1, 2], -1, 1), labels=labels)
    for norm in generator.batch_norms:
        norm.moving_mean.assign(norm.batch_moments[0])
        norm.moving_variance.assign(norm.batch_moments[1])
    return generator


def test_a_generated_video_is_found_again():
    generator = made_generator()
    weights = generator.get_weights()
    wanted = tf.constant(WANTED)
    target = generator(wanted)[0]
    loss = projection.pixel_loss(target, 2)
    found = projection.project(
        lambda z, _: generator(z), loss, 2, None, candidates=32, restarts=4, steps=80, learning_rate=0.1, seed=0
    )
    first, last = (to_uint8(generator(z[np.newaxis])[0].numpy()) for z in (found.start, found.z))
    assert found.losses.min() < 1e-4 * found.losses[0, found.restart]
    assert projection.psnr(first, to_uint8(target.numpy())) < 25, "there was something to be found"
    assert projection.psnr(last, to_uint8(target.numpy())) > 50
    np.testing.assert_allclose(found.z, wanted[0], atol=0.01)
    # In inference mode: the loss is the same alone as in a batch, and the generator is unchanged.
    np.testing.assert_allclose(loss(generator(found.z[np.newaxis]))[0], found.losses.min(), atol=1e-7)
    for before, after in zip(weights, generator.get_weights()):
        np.testing.assert_array_equal(before, after)


# ---- the command


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A conditional run of 16 frames and one of 4, a classifier, and a clip of class 1 generated by the first."""
    folder = tmp_path_factory.mktemp("made")
    conditional = {"num_frames": 16, "conditional": True, "num_classes": len(CLASSES)}
    generator: Any = None
    for name, model in (("short", {}), ("run", conditional)):
        config, run = tiny_config({**MODEL, **model}, {"frame_step": 2}), folder / name
        generator = made_generator(**model)
        run.mkdir()
        (run / "config.json").write_text(config.to_json())
        (run / "classes.json").write_text(json.dumps(CLASSES))
        checkpoint = tf.train.Checkpoint(ema_generator=generator, step=tf.Variable(7, dtype=tf.int64))
        tf.train.CheckpointManager(checkpoint, str(run / "checkpoints"), 1).save(7)
    clip = to_uint8(generator(tf.constant(WANTED), labels=tf.constant([1]))[0].numpy())
    # At twice the size, with every frame repeated (the run uses every other one), after a frame to skip.
    write_video(folder / "clip.avi", np.concatenate([clip[:1], clip.repeat(2, 0)]).repeat(2, 1).repeat(2, 2))
    shape: dict[str, Any] = {"side": 16, "channels": (2,) * 8, "units": (8, 8), "num_classes": 2}
    tf.keras.utils.set_random_seed(0)
    save_classifier(C3D(C3DConfig(**shape)), {"format": 1, "shape": shape, "labels": ["a", "b"]}, folder / "c3d.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "load_generator", functools.cache(load_generator))
        yield types.SimpleNamespace(
            folder=folder, run=str(folder / "run"), video=str(folder / "clip.avi"), generator=generator
        )


def arguments(made, output, *more):
    common = ["--candidates=3", "--restarts=3", "--steps=1", "--first_frame=1"]
    return [f"--model_dir={made.run}", f"--video={made.video}", f"--output={output}", *common, *more]


def untraced(function=None, **options):
    """`tf.function` without a graph: faster for few steps."""
    return functools.partial(untraced, **options) if function is None else function


def run_here(capsys, *given):
    """Returns the exit status and the output."""
    status = cli.run(project.main, (project.Command,), "tganv2_tf.project", "", given)
    return (status, *capsys.readouterr())


def test_the_command_from_clip_to_latent(made, tmp_path):
    output = tmp_path / "out" / "found.mp4"
    more = (
        "--steps=40",
        "--candidates=48",
        "--restarts=6",
        "--loss=both",
        f"--classifier={made.folder / 'c3d.npz'}",
        "--scale=2",
    )
    done = run_command("tganv2_tf.project", *arguments(made, output, *more))
    assert done.returncode == 0, done.stderr
    assert "40/40" in done.stderr and "step/s" in done.stderr
    with np.load(output.with_suffix(".npz"), allow_pickle=False) as archive:
        arrays = dict(archive)
    assert set(arrays) == {"z", "losses", "label", "metadata"}
    assert arrays["z"].shape == (2,) and np.abs(arrays["z"]).max() <= 1 and arrays["losses"].shape == (41, 6)
    metadata = json.loads(str(arrays["metadata"]))
    assert metadata["step"] == 7 and metadata["options"]["video"] == made.video and arrays["label"] == 1
    start, end = metadata["start"], metadata["end"]
    assert end["loss"] == arrays["losses"][:, metadata["restart"]].min() == arrays["losses"].min()
    # The lossy encoding of the file limits the PSNR of the run's own clip to 38 dB.
    assert end["loss"] < 0.3 * start["loss"] and start["psnr"] < 31 and end["psnr"] > 34
    assert f"Start  loss {start['loss']:.5f}  PSNR {start['psnr']:.2f} dB" in done.stdout
    assert f"End    loss {end['loss']:.5f}  PSNR {end['psnr']:.2f} dB" in done.stdout
    assert "its reconstruction of class right" in done.stdout
    frames = list(open_video(output).frames)
    assert len(frames) == 16 and frames[0].shape == (32, 2 * 32 + 4 - 2, 3)  # two pixels between the two
    assert sorted(path.name for path in output.parent.iterdir()) == ["found.mp4", "found.npz"]


def test_the_picture_shows_the_clip_above_what_the_latent_renders(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tf, "function", untraced)
    output = tmp_path / "found.png"
    status, said, _ = run_here(capsys, *arguments(made, output, "--labels=up"))
    assert status == 0 and "of class up" in said
    with np.load(tmp_path / "found.npz", allow_pickle=False) as archive:
        z, label, metadata = archive["z"], archive["label"], json.loads(str(archive["metadata"]))
    assert label == 2
    clip = projection.read_clip(made.video, 16, 16, 1, 2)
    video = to_uint8(made.generator(z[np.newaxis], labels=tf.constant([2]))[0].numpy())
    picture = iio.imread(output).astype(int)
    assert picture.shape == (16 + 2 + 16, 8 * (16 + 2) - 2, 3)  # eight frames of each
    np.testing.assert_array_equal(picture[:16, :16], clip[0])
    np.testing.assert_array_equal(picture[:16, -16:], clip[-1])
    np.testing.assert_allclose(picture[18:, :16], video[0], atol=1)
    np.testing.assert_allclose(picture[18:, -16:], video[-1], atol=1)
    assert projection.psnr(video, clip) == pytest.approx(metadata["end"]["psnr"], abs=0.05)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model_dir=nowhere"], "nowhere: no such folder or checkpoint"),
        (["--video=nowhere.mp4"], "nowhere.mp4: the file is missing"),
        (["--video=pyproject.toml"], "pyproject.toml: it cannot be opened as a video"),
        (["--first_frame=3"], "clip.avi: 33 frames; a clip of 16 frames needs the first 34"),
        (["--labels=down"], "--labels=down: no class 'down'; valid: all, 0 to 2, 'left', 'right', 'up'"),
        (["--loss=feature"], "--classifier is missing with --loss=feature"),
        (["--classifier=c3d.npz"], "--classifier is not used with --loss=pixel"),
        (["--loss=both", "--classifier=nowhere.npz"], "nowhere.npz: no such file"),
        (["--output=found.npz"], "--output=found.npz: valid: a file name that ends with .mp4, .gif, .png"),
        (["--restarts=7"], "--candidates=3: valid: a whole number of at least --restarts=7"),
        (["--steps=0"], "--steps=0: valid: a whole number of at least 1"),
        (["--learning_rate=0"], "--learning_rate=0.0: valid: a number above 0"),
    ],
)
def test_wrong_inputs_are_one_line(made, tmp_path, capsys, more, message):
    status, _, said = run_here(capsys, *arguments(made, tmp_path / "found.png", *more))
    assert status in (1, 2) and said.startswith("project: ") and message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_clips_that_the_classifier_cannot_see(made, tmp_path, capsys):
    features = ["--loss=feature", f"--classifier={made.folder / 'c3d.npz'}", f"--model_dir={made.folder / 'short'}"]
    status, _, said = run_here(capsys, *arguments(made, tmp_path / "found.png", *features))
    assert status == 2
    assert said == "project: --loss=feature: the classifier needs 16 frames, but the run's clips have 4; valid: pixel\n"


def test_full_memory(made, tmp_path, capsys, monkeypatch):
    def project_nothing(*args, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    monkeypatch.setattr(projection, "project", project_nothing)
    status, _, said = run_here(capsys, *arguments(made, tmp_path / "found.png"))
    assert (status, said) == (1, "project: out of memory; lower --restarts\n")
