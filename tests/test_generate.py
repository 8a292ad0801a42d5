"""Outputs of `generate`, with a generator whose frames are known."""

from __future__ import annotations

import pathlib
import tracemalloc

import imageio.v3 as iio
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tganv2_tf import cli, generate
from tganv2_tf.errors import ConfigError
from tganv2_tf.runtime import machine
from tganv2_tf.sampling import latent_paths, rendering, sampler
from tganv2_tf.sampling.selection import parse_labels, parse_seeds
from tganv2_tf.video_io import videos

CLASSES = ("left", "up/down", "right")


def test_seeds_by_hand():
    assert parse_seeds("0-3, 8,5-5") == [0, 1, 2, 3, 8, 5]
    assert parse_seeds(str(2**63 - 1)) == [2**63 - 1]
    for text, message in [
        ("5-2", "the range '5-2' is reversed; valid: 2-5"),
        ("1,a", "'a' is neither a number nor a range"),
        ("", "'' is neither"),
        ("-3", "'-3' is neither"),
        ("²", "'²' is neither"),
        (str(2**63), "is too large; valid: below 2\\^63"),
        ("0-99999999999", "too many; valid: up to 100000"),
        ("0-60000,0-60000", "too many"),
    ]:
        with pytest.raises(ConfigError, match=message):
            parse_seeds(text)
    assert len(parse_seeds("1-100000")) == 100_000


def test_labels_by_hand():
    assert parse_labels("up/down,0", CLASSES) == [1, 0]
    assert parse_labels("0-2", CLASSES) == [0, 1, 2]
    assert parse_labels(" all ", CLASSES) == [0, 1, 2]
    assert parse_labels("left-up/down,0", CLASSES) == [0, 2, 1, 0], "names from left to up/down"
    assert parse_labels("all", ("c", "all")) == [1]
    for text in ("down", "left,", "0-3", "2-1", "-1", "Left", "0-right", "right-left"):
        with pytest.raises(ConfigError, match=r"no class '.*'; valid: all, 0 to 2, 'left', 'up/down', 'right'$"):
            parse_labels(text, CLASSES)
    with pytest.raises(ConfigError, match="was not trained with classes"):
        parse_labels("0", ())


def test_numbers_and_their_ranges_mean_the_same_classes():
    named = sorted(map(str, range(1, 13)))  # sorted as folders are: 1, 10, 11, 12, 2 ...

    def names(text):
        return [named[label] for label in parse_labels(text, named)]

    assert names("1-3") == names("1,2,3") == ["1", "2", "3"]
    assert names("9-11, 2") == ["9", "10", "11", "2"]
    for text in ("0", "0-3", "3-1", "1-13"):  # 0 would be a label number, not a name
        with pytest.raises(ConfigError, match=f"no class '{text}'; valid: all, '1', '10', "):
            parse_labels(text, named)
    assert parse_labels("clip2-clip10", ("clip1", "clip10", "clip2", "clip9")) == [2, 3, 1]
    assert parse_labels("clip1,3", ("clip1", "clip10", "clip2", "clip9")) == [0, 3], "no class is named by a number"


def test_names_that_hold_commas_dashes_and_quotes():
    names = ("a", "a, b", "c,d,e", "e-f", "e", 'say "x"', "it's")
    assert parse_labels("c,d,e,a, b,a", names) == [2, 1, 0]
    for text in ("'a, b','c,d,e'", '"a, b" , "c,d,e"'):
        assert parse_labels(text, names) == [1, 2]
    assert parse_labels("e-f", names) == [3], "a name before a range"
    assert parse_labels("a-c,d,e", names) == parse_labels("'a' - 'c,d,e'", names) == [0, 1, 2]
    assert parse_labels("'a', b", ("a", "b", "a, b")) == [0, 1] and parse_labels("a, b", ("a", "b", "a, b")) == [2]
    assert parse_labels('say "x",it\'s,"it\'s"', names) == [5, 6, 6]
    with pytest.raises(ConfigError, match="no class 'a-b-c'"):  # two ranges
        parse_labels("a-b-c", ("a", "a-b", "b-c", "c"))
    message = """--labels=c,d: no class 'c'; valid: all, 0 to 6, 'a', 'a, b', 'c,d,e', 'e-f', 'e', 'say "x"', "it's"$"""
    with pytest.raises(ConfigError, match=message):
        parse_labels("c,d", names)


# ---- interpolation of latents

WEIGHTS = np.array([0.0, 0.25, 0.5, 1.0])


@pytest.mark.parametrize("way", ["linear", "spherical"])
def test_ways_begin_and_end_at_the_latents(way):
    first, second = np.random.default_rng(0).uniform(-1, 1, (2, 64)).astype(np.float32)
    path = latent_paths.INTERPOLATIONS[way](first, second, WEIGHTS)
    assert path.dtype == np.float32 and path.shape == (4, 64)
    np.testing.assert_allclose(path[[0, -1]], [first, second], atol=1e-6)
    assert np.abs(path).max() <= 1
    still = latent_paths.INTERPOLATIONS[way](first, first, WEIGHTS)
    np.testing.assert_allclose(still, np.tile(first, (4, 1)), atol=1e-6)
    opposite = latent_paths.INTERPOLATIONS[way](first, -first, WEIGHTS)
    np.testing.assert_allclose(opposite[2], 0, atol=1e-6)
    assert (np.sign(opposite[1]) == np.sign(first)).all() and (np.abs(opposite[1]) < np.abs(first)).all()
    corner = latent_paths.INTERPOLATIONS[way](-np.ones(3, np.float32), np.zeros(3, np.float32), WEIGHTS)
    assert np.isfinite(corner).all(), "U(-1, 1) as TensorFlow draws it contains -1"


def test_linear_by_hand():
    path = latent_paths.linear(np.array([0.0, -1.0]), np.array([1.0, 1.0]), WEIGHTS)
    np.testing.assert_array_equal(path, [[0.0, -1.0], [0.25, -0.5], [0.5, 0.0], [1.0, 1.0]])


def test_spherical_by_hand():
    # Normal scores (1, 0) and (0, 1) are at a right angle: halfway both are sin(45 degrees).
    one = 2 * scipy.stats.norm.cdf(1) - 1
    half_way = 2 * scipy.stats.norm.cdf(np.sqrt(0.5)) - 1
    path = latent_paths.spherical(np.array([one, 0.0]), np.array([0.0, one]), np.array([0.5]))
    np.testing.assert_allclose(path, [[half_way, half_way]], atol=1e-6)


def test_the_spherical_way_is_distributed_as_latents_are():
    latents = np.random.default_rng(1).uniform(-1, 1, (300, 2, 64))
    middle = {
        name: np.concatenate([way(first, second, np.array([0.5]))[0] for first, second in latents])
        for name, way in latent_paths.INTERPOLATIONS.items()
    }
    assert scipy.stats.kstest(middle["spherical"], "uniform", (-1, 2)).pvalue > 0.01
    # Var((a + b) / 2) = Var(a) / 2 = 1 / 6.
    np.testing.assert_allclose(middle["linear"].std(), 6**-0.5, rtol=0.02)


def test_the_clock_of_a_walk():
    assert latent_paths.ping_pong(8, 4).tolist() == [0, 1, 2, 3, 2, 1, 0, 1]
    assert latent_paths.ping_pong(3, 1).tolist() == [0, 0, 0]
    assert latent_paths.ping_pong(4, 2).tolist() == [0, 1, 0, 1]


# ---- selection of videos


def points(*seeds):
    return [rendering.LatentPath(f"seed{seed}", seed, np.full((1, 1), seed, np.float32)) for seed in seeds]


def test_every_class_gets_the_same_seeds():
    chosen = rendering.select(points(4, 9), CLASSES, [1, 0])
    assert chosen.z[:, 0].tolist() == [4, 9, 4, 9]
    assert chosen.seeds.tolist() == [4, 9, 4, 9]
    assert chosen.labels is not None and chosen.labels.tolist() == [1, 1, 0, 0]
    assert chosen.names == ["seed4-up%2Fdown", "seed9-up%2Fdown", "seed4-left", "seed9-left"]
    assert chosen.columns == 2
    assert chosen.part(1, 3).names == chosen.names[1:3]


def test_without_labels_the_classes_come_in_turn_by_seed():
    chosen = rendering.select(points(4, 9, 2), CLASSES)
    assert chosen.labels is not None and chosen.labels.tolist() == [1, 0, 2]
    assert chosen.columns == 0
    plain = rendering.select(points(4, 9))
    assert plain.labels is None and plain.names == ["seed4", "seed9"]
    assert set(plain.arrays()) == {"seeds", "z", "names"} == set(chosen.arrays()) - {"labels"}


def test_ways_become_rows_or_one_walk():
    z = np.array([[-1, 0], [0, 0], [1, 0]], np.float32)
    paths = rendering.interpolate_seeds(z, [4, 6, 9], "linear", 2)
    chosen = rendering.select(paths, CLASSES)
    assert chosen.z[:, 0].tolist() == [-1, -0.5, 0, 0, 0.5, 1]
    assert chosen.columns == 3
    assert chosen.names[2:4] == ["seed4-to-6-up%2Fdown-step2", "seed6-to-9-left-step0"]
    assert chosen.labels is not None and chosen.labels.tolist() == [1, 1, 1, 0, 0, 0], "those of the first seeds"
    walk = rendering.select([rendering.concatenate_paths(paths, "seed4-to-9")], CLASSES, [2, 0], walk=True)
    assert walk.z[:, :, 0].tolist() == [[-1, -0.5, 0, 0.5, 1]] * 2
    assert walk.names == ["seed4-to-9-right", "seed4-to-9-left"]
    assert walk.columns == 0


# ---- rendering


class Served:
    """A stand-in for a served generator: pixels are (100 * (z[0] + 1), the frame's number, 10 * label + level)."""

    def __init__(self, class_names=()):
        self.z_dim, self.num_frames, self.num_levels = 1, 4, 2
        self.sizes = tf.constant([2, 4])
        self.class_names = tf.constant(class_names, tf.string, [len(class_names)])
        self.largest_batch = 0

    def begin(self, z, num_frames, level, label=None):
        label = tf.zeros(len(z), tf.int32) if label is None else label
        return self.resume((100 * (z[:, 0] + 1), 0), num_frames, level, label)

    def resume(self, state, num_frames, level, label=None):
        red, seen = state
        label = tf.zeros(len(red), tf.int32) if label is None else label
        self.largest_batch = max(self.largest_batch, len(red))
        size = int(self.sizes[level - 1])
        videos = np.empty((len(red), num_frames, size, size, 3), np.float32)
        videos[..., 0] = red[:, None, None, None]
        videos[..., 1] = (np.arange(seen, seen + num_frames) % 256)[:, None, None]
        videos[..., 2] = (10 * label + level)[:, None, None, None]
        return tf.constant(videos / 127.5 - 1), (red, seen + num_frames)

    def sample(self, *inputs):
        return self.begin(*inputs)[0]


def pixels(videos):
    """Returns one pixel per frame, [N, T, 3]; all pixels of a frame must be equal."""
    assert (videos == videos[:, :, :1, :1]).all()
    return videos[:, :, 0, 0]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_playing_in_parts_whatever_the_batch(batch_size):
    served = Served(CLASSES)
    chosen = rendering.select(points(0, 1, 2), CLASSES)
    chunks = list(rendering.render(sampler.Sampler(served, ""), chosen, 37, 1, batch_size))
    assert [chunk.shape for chunk in chunks] == [(3, 16, 2, 2, 3), (3, 16, 2, 2, 3), (3, 5, 2, 2, 3)]
    expected = [[[100 * (n + 1) if n < 2 else 255, t, 10 * n + 1] for t in range(37)] for n in range(3)]
    np.testing.assert_array_equal(pixels(np.concatenate(chunks, 1)), expected)
    assert served.largest_batch == min(batch_size, 3)


def test_levels_are_enlarged_and_follow_each_other():
    chosen = rendering.select(points(0, 1))
    (chunk,) = rendering.render_levels(sampler.Sampler(Served(), ""), chosen, 3, 8, "nearest")
    assert chunk.shape == (4, 3, 4, 4, 3)
    assert pixels(chunk)[:, 2].tolist() == [[100, 2, 1], [100, 2, 2], [200, 2, 1], [200, 2, 2]]


@pytest.mark.parametrize("batch_size", [3, 64])
def test_a_walk_shows_each_frame_at_its_time_of_the_clip_of_its_own_latent(batch_size):
    z = np.linspace(-1, 1, 21, dtype=np.float32)[:, None]
    chosen = rendering.select([rendering.LatentPath("w", 0, z)], CLASSES, [2, 1], walk=True)
    chunks = list(rendering.render_walk(sampler.Sampler(Served(CLASSES), ""), chosen, 3, 0, batch_size))
    assert [chunk.shape[:2] for chunk in chunks] == [(2, 16), (2, 5)]
    seen = pixels(np.concatenate(chunks, 1))
    assert seen[0, :, 0].tolist() == list(range(0, 201, 10))
    assert seen[1, :, 1].tolist() == [0, 1, 2, 1] * 5 + [0]
    assert seen[:, :, 2].tolist() == [[22] * 21, [12] * 21]


# ---- the command


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command with the stand-in in an empty folder; returns its status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, class_names=()):
        made = sampler.Sampler(Served(class_names), "stand-in")
        monkeypatch.setattr(sampler, "load_sampler", lambda *_: made)
        status = cli.run(generate.main, (generate.Command,), "tganv2_tf.generate", "", ["--model_dir=x", *arguments])
        return (status, *capsys.readouterr())

    return call


def load(path):
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def latents(seeds):
    return sampler.Sampler(Served(), "").latents(seeds)


def bytes_of(z):
    return np.rint(100 * (z.astype(np.float64) + 1))


def test_arrays_hold_the_videos_and_all_that_made_them(run):
    status, out, _ = run(
        "--output=a.npz", "--seeds=5,2", "--labels=right,left", "--truncation=0.5", class_names=CLASSES
    )
    assert (status, out) == (0, "4 videos: a.npz\n")
    arrays = load("a.npz")
    assert set(arrays) == {"videos", "seeds", "labels", "z", "names"}
    z = 0.5 * latents([5, 2, 5, 2])
    np.testing.assert_allclose(arrays["z"], z, rtol=1e-6)
    assert arrays["seeds"].tolist() == [5, 2, 5, 2]
    assert arrays["labels"].tolist() == [2, 2, 0, 0]
    assert arrays["names"].tolist() == ["seed5-right", "seed2-right", "seed5-left", "seed2-left"]
    assert arrays["videos"].dtype == np.uint8 and arrays["videos"].shape == (4, 4, 4, 4, 3)
    seen = pixels(arrays["videos"])
    assert np.abs(seen[:, 0, 0] - bytes_of(z[:, 0])).max() <= 1
    assert seen[0].tolist() == [[seen[0, 0, 0], t, 22] for t in range(4)]


def test_ways_and_walks_as_arrays(run):
    first, last = latents([5, 2])
    options = ["--interpolate=spherical", "--interpolation_steps=4", "--truncation=0.5"]
    assert run("--output=a.npz", "--seeds=5,2", *options)[0] == 0
    expected = 0.5 * latent_paths.spherical(first, last, np.linspace(0, 1, 5))
    np.testing.assert_allclose(load("a.npz")["z"], expected, atol=1e-6)
    options = ["--seeds=5,2", "--layout=walk", "--interpolate=linear", "--interpolation_steps=20", "--num_frames=3"]
    status, out, errors = run("--output=w.npz", *options)
    assert (status, out) == (0, "1 videos: w.npz\n") and "21/21" in errors.replace(".0", "")
    walk = load("w.npz")
    assert walk["z"].shape == (1, 21, 1) and walk["videos"].shape == (1, 21, 4, 4, 3)
    seen = pixels(walk["videos"])[0]
    assert np.abs(seen[:, 0] - bytes_of(np.linspace(first[0], last[0], 21))).max() <= 1
    assert seen[:, 1].tolist() == [0, 1, 2, 1] * 5 + [0]


def test_single_files_have_the_names_of_seeds_and_classes(run):
    options = ["--layout=single", "--seeds=5,3", "--batch_size=1", "--scale=4", "--num_frames=20"]
    status, out, _ = run("--output=new/v.mp4", *options, class_names=CLASSES)
    assert (status, out) == (0, "2 videos: new/v-seed*.mp4\n")
    blue = {"v-seed3-left.mp4": 2, "v-seed5-right.mp4": 22}
    assert sorted(path.name for path in pathlib.Path("new").iterdir()) == sorted(blue)
    for name, value in blue.items():
        video = iio.imread(f"new/{name}", plugin="FFMPEG")
        assert video.shape == (20, 16, 16, 3)
        assert np.abs(video[..., 1].mean((1, 2)) - np.arange(20)).max() < 4, "frame t has green t"
        assert np.abs(video[..., 2].mean((1, 2)) - value).max() < 6, "each class has its blue"
    assert run("--output=f/", "--layout=single", "--seeds=5")[:2] == (0, "1 videos: f-seed5/\n")
    frames = sorted(pathlib.Path("f-seed5").iterdir())
    assert [path.name for path in frames] == [f"frame-0000{t}.png" for t in range(4)]
    assert iio.imread(frames[3])[0, 0, 1:].tolist() == [3, 2]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--seeds=5,4-6"], "seed5-right"),
        (["--seeds=5", "--labels=left,0"], "seed5-left"),
        (["--seeds=3,7,3,7", "--interpolate=linear"], "seed3-to-7-left-step0"),
    ],
)
def test_two_single_files_of_the_same_name_are_refused(run, tmp_path, options, name):
    status, out, errors = run("--output=v.mp4", "--layout=single", *options, class_names=CLASSES)
    assert (status, out) == (2, "") and not list(tmp_path.iterdir())
    assert errors == f"generate: --layout=single: 2 files would have the name {name}; valid: each seed and class once\n"
    assert run("--output=v.npz", *options, class_names=CLASSES)[0] == 0, "in one file they may come again"


def test_captions_name_seed_class_step_and_level(run, monkeypatch):
    written = []

    def captioned(made, texts):
        written.append(list(texts))
        return made

    monkeypatch.setattr(videos, "captioned", captioned)
    for flags, expected in (
        (["--seeds=5,2", "--labels=up/down"], ["seed5-up/down", "seed2-up/down"]),
        (
            ["--seeds=5,0", "--layout=levels"],
            [f"{name}, level {n}" for name in ("seed5-right", "seed0-left") for n in (1, 2)],
        ),
        (["--seeds=5", "--layout=single"], ["seed5-right"]),
    ):
        for suffix, name in ((".png", "a"), (".gif", "b"), ("/", "c")):
            shown = ["--captions", f"--output={len(written)}{name}{suffix}"]
            assert run(*shown, *flags, class_names=CLASSES)[0] == 0
            assert written[-1] == expected
            assert run(f"--output={len(written)}{name}{suffix}", *flags, class_names=CLASSES)[0] == 0
            assert written[-1] == [], "off by default"
    status, _, errors = run("--output=a.npz", "--captions")
    assert status == 2 and errors == "generate: --captions=true: valid: false for an .npz\n"


def test_pictures_of_grids_and_of_levels(run):
    assert run("--output=g.png", "--seeds=0-2")[0] == 0
    assert iio.imread("g.png").shape == (3 * 4 + 4, 4 * 4 + 6, 3), "a row each, all four frames"
    assert run("--output=l.png", "--seeds=0-2", "--layout=levels", "--num_frames=40", "--scale=2")[0] == 0
    picture = iio.imread("l.png")
    assert picture.shape == (3 * 8 + 4, 2 * 8 + 2, 3), "a row each, a column a level"
    assert picture[0, 0, 1:].tolist() == [19, 1] and picture[0, 10, 1:].tolist() == [19, 2], "the frame in the middle"
    assert run("--output=c/", "--seeds=0-2", "--labels=0,2", class_names=CLASSES)[0] == 0
    assert iio.imread("c/frame-00001.png")[0, 0, 1:].tolist() == [1, 2]
    assert iio.imread("c/frame-00001.png")[6, 12, 1:].tolist() == [1, 22]
    assert iio.imread("c/frame-00001.png").shape == (2 * 4 + 2, 3 * 4 + 4, 3), "a row a class, a column a seed"


def test_long_videos_do_not_gather_in_memory(run):
    run("--output=first.mp4", "--num_frames=20")  # excludes one-time imports and initialization
    for name in ("long.npz", "long.mp4", "long.png"):
        tracemalloc.start()
        try:
            assert run(f"--output={name}", "--seeds=0", "--num_frames=1000", "--scale=10")[0] == 0
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1000 * 40 * 40 * 3 / 8, name
    assert len(load("long.npz")["videos"][0]) == 1000


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--output=x.avi"], 1, "x.avi: cannot write .avi; valid: .gif, .mp4, .png, .npz, or a folder"),
        (["--output=x.gif", "--saved_model=y"], 2, "specify exactly one of --model_dir and --saved_model"),
        (["--output=x.gif", "--seeds=5-2"], 2, "--seeds=5-2"),
        (["--output=x.gif", "--level=3"], 2, "--level=3: the generator has 2 levels; valid: 1 to 2"),
        (["--output=x.gif", "--labels=left"], 2, "--labels=left: the generator was not trained with classes"),
        (["--output=x.gif", "--truncation=0"], 2, "--truncation=0.0: valid: a number above 0, up to 1"),
        (["--output=x.gif", "--fps=60"], 2, "--fps=60.0: valid: a number above 0, up to 50"),
        (["--output=x.gif", "--batch_size=0"], 2, "--batch_size=0: valid: a whole number of at least 1"),
        (["--output=x.gif", "--layout=walk"], 2, "--layout=walk: valid: with --interpolate=linear or spherical"),
        (["--output=x.gif", "--seeds=1", "--interpolate=linear"], 2, "--seeds=1: valid: at least two"),
        (["--output=x.gif", "--layout=levels", "--level=1"], 2, "--level=1: valid: 0 with --layout=levels"),
        (["--output=x.npz", "--layout=levels"], 2, "--layout=levels: valid: grid, single or walk for an .npz"),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_nothing(run, tmp_path, arguments, status, message):
    code, out, errors = run(*arguments)
    assert (code, out) == (status, "")
    assert errors.startswith(f"generate: {message}") and errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# The stand-in has 4x4 pixels, 48 bytes per frame, and 4 frames.
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--seeds=0", "--num_frames=1000000000000"],
            "1 videos of 1,000,000,000,000 frames of 4x4 pixels are 48,000 GB uncompressed; valid: up to "
            "--max_gigabytes=100, or fewer --seeds, --num_frames or --scale",
        ),
        (["--seeds=0", f"--num_frames=1{'0' * 400}"], "1 videos of 10,000,"),
        (["--seeds=0-1", "--num_frames=25", "--max_gigabytes=2.3e-6"], "2 videos of 25 frames of 4x4 pixels are 0 GB"),
        (["--seeds=0", "--scale=1000000"], "1 videos of 4 frames of 4000000x4000000 pixels are 192,000 GB"),
        (
            ["--seeds=0-1", "--layout=walk", "--interpolate=linear", "--interpolation_steps=9999999999"],
            "1 videos of 10,000,000,000 frames of 4x4 pixels are 480 GB",
        ),
        (
            ["--seeds=0-99", "--scale=100", "--num_frames=20"],
            # 100 videos x 16 frames x 400x400x3 bytes, times three, are 2.3 GB.
            "100 videos of 20 frames of 400x400 pixels need at least 2.3 GB of memory, but only 1.0 GB are free",
        ),
        (
            ["--seeds=0-1", "--interpolate=linear", "--interpolation_steps=99999999"],
            "100,000,000 videos of 4 frames of 4x4 pixels need at least",
        ),
        (
            ["--seeds=0-1", "--layout=walk", "--interpolate=linear", "--num_frames=1000000000"],
            "1 videos of 33 frames of 4x4 pixels need at least 3,456.0 GB",  # 8 clips x 10^9 x 48 x (4 + 4 + 1)
        ),
    ],
)
def test_absurd_requests_are_one_line_before_anything_is_made(run, monkeypatch, tmp_path, arguments, message):
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(2 * 10**9, 10**9, False))
    monkeypatch.setattr(Served, "begin", None)
    code, out, errors = run("--output=x.mp4", *arguments)
    assert (code, out) == (1, "")
    assert errors.startswith(f"generate: {message}") and errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_just_within_the_limits_is_made(run, monkeypatch):
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(2 * 10**9, 10**7, False))
    assert run("--output=x.npz", "--seeds=0-1", "--num_frames=25", "--max_gigabytes=2.4e-6")[0] == 0
    # 4 frames of 400x400x3 bytes, times three, are 5.8 MB; two videos do not fit at once, but one after the other.
    large = ["--output=y.npz", "--seeds=0-1", "--scale=100"]
    assert run(*large)[0] == 1
    assert run(*large, "--layout=single", "--batch_size=1")[0] == 0


def test_too_little_memory_is_one_line(run, monkeypatch, tmp_path):
    def begin(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(Served, "begin", begin)
    code, _, errors = run("--output=x.npz", "--seeds=0", "--batch_size=7")
    assert code == 1
    assert errors.splitlines()[-1].startswith("generate: --batch_size=7: out of memory; use a smaller batch")
    assert list(tmp_path.iterdir()) == []
