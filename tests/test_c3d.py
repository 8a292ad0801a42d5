"""C3D: comparison with the authors' numbers, preprocessing by hand, and errors in files."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tganv2_tf.errors import UserError
from tganv2_tf.evaluation.c3d import C3D, C3DConfig, load_c3d, resize
from tganv2_tf.storage.files import read_npz

GOLDEN = pathlib.Path(__file__).parent / "data" / "c3d_public.npz"
TINY = C3DConfig(side=8, channels=(2, 3, 2, 3, 2, 3, 2, 3), units=(5, 4), num_classes=3)


def authors_weights(rng):
    """Random numbers in the layout of the authors' file: 312 MB."""
    weights = {}
    sizes = {"conv1a": (64, 3), "conv2a": (128, 64), "conv3a": (256, 128), "conv3b": (256, 256), "conv4a": (512, 256)}
    sizes |= dict.fromkeys(("conv4b", "conv5a", "conv5b"), (512, 512))
    sizes |= {"fc6": (4096, 8192), "fc7": (4096, 4096), "fc8": (101, 4096)}
    for name, (outputs, inputs) in sizes.items():
        kernel = (3, 3, 3) if name.startswith("conv") else ()
        deviation = np.sqrt(2 / (inputs * np.prod(kernel, dtype=int)))
        if name == "conv1a":  # its inputs are bytes
            deviation *= 0.02
        weights[f"{name}/W"] = (rng.standard_normal((outputs, inputs, *kernel)) * deviation).astype(np.float32)
        weights[f"{name}/b"] = (rng.standard_normal(outputs) * 0.05).astype(np.float32)
    return weights


def authors_mean(rng):
    return (100 + 10 * rng.standard_normal((3, 16, 128, 171))).astype(np.float32)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def official(tmp_path_factory, golden):
    """C3D with the weights of the golden values, read from files, and the mean as stored in its file."""
    folder = tmp_path_factory.mktemp("c3d")
    rng = np.random.RandomState(golden["seed"])
    np.savez(folder / "weights.npz", **authors_weights(rng))
    mean = authors_mean(rng)
    np.savez(folder / "mean2.npz", mean=mean)
    network = load_c3d(folder / "weights.npz", folder / "mean2.npz")
    (folder / "weights.npz").unlink()  # pytest would keep three of them
    return network, mean


@pytest.fixture(scope="module")
def golden_videos():
    rng = np.random.RandomState(100)
    coarse = rng.uniform(-1, 1, (2, 3, 16, 24, 24)).astype(np.float32).repeat(8, 3).repeat(8, 4)
    videos = np.clip(coarse + rng.uniform(-0.1, 0.1, coarse.shape), -1, 1)
    return videos.astype(np.float32).transpose(0, 2, 3, 4, 1)


def assert_close(ours, theirs):
    """Compares up to a ten-thousandth of the largest value."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_the_authors_numbers(official, golden, golden_videos):
    network, _ = official
    inputs = network.preprocess(golden_videos)
    flat = inputs.numpy().transpose(0, 4, 1, 2, 3).reshape(2, -1)
    stride = flat.shape[1] // golden["pre"].shape[1]
    assert_close(flat[:, ::stride][:, : golden["pre"].shape[1]], golden["pre"])
    outputs = network(golden_videos)
    assert_close(outputs["fc6"], golden["fc6"])
    assert_close(outputs["fc7"], golden["fc7"])
    assert_close(outputs["fc8"], golden["fc8"])
    assert_close(outputs["probabilities"], golden["prob"])
    assert {value.dtype for value in outputs.values()} == {tf.float32}
    assert network.num_classes == 101 and network.labels == ()


def test_the_mean_is_cropped_in_its_middle_and_its_channels_stay(official):
    network, mean = official
    assert network.mean.shape == (16, 112, 112, 3)
    for t, y, x, c in ((0, 0, 0, 0), (15, 111, 111, 2), (3, 50, 70, 1)):
        assert network.mean[t, y, x, c] == mean[c, t, 8 + y, 8 + x]


def test_preprocessing_with_a_mean_is_bgr_in_bytes_less_the_mean():
    mean = np.broadcast_to(np.array([10.0, 20.0, 30.0], np.float32), (16, 8, 8, 3))
    video = tf.ones([1, 16, 5, 6, 3]) * tf.constant([0.5, -1.0, 0.25])  # R, G, B: bytes 192, 0, 160
    inputs = C3D(TINY, mean).preprocess(video)
    np.testing.assert_allclose(inputs, np.broadcast_to([160.0 - 10, 0.0 - 20, 192.0 - 30], (1, 16, 8, 8, 3)), atol=1e-4)


def test_without_a_mean_the_input_stays_as_it_is():
    video = tf.random.stateless_uniform([2, 16, 8, 8, 3], [0, 1], -1, 1)
    np.testing.assert_array_equal(C3D(TINY).preprocess(video), video)


def test_resizing_a_ramp_keeps_its_corners():
    rows, columns = np.array([0.0, 10.0, 20.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    ramp = (rows[:, None] + columns).astype(np.float32)[None, None, :, :, None]
    larger = resize(np.repeat(ramp, 3, axis=1), 9)[0, 2, :, :, 0]
    expected = np.linspace(0, 20, 9)[:, None] + np.linspace(1, 5, 9)
    np.testing.assert_allclose(larger, expected, atol=1e-5)
    # No filter: the first, middle and last of five columns.
    np.testing.assert_allclose(resize(ramp, 3)[0, 0, 0, :, 0], [1.0, 3.0, 5.0], atol=1e-5)


def test_resizing_is_linear_interpolation_along_both_axes():
    videos = np.random.default_rng(0).uniform(-1, 1, (2, 3, 7, 10, 3)).astype(np.float32)
    rows, columns = np.linspace(0, 6, 5), np.linspace(0, 9, 5)
    expected = np.apply_along_axis(lambda line: np.interp(rows, np.arange(7), line), 2, videos)
    expected = np.apply_along_axis(lambda line: np.interp(columns, np.arange(10), line), 3, expected)
    np.testing.assert_allclose(resize(videos, 5), expected, atol=1e-6)


def test_any_size_and_number_of_videos_inside_a_graph():
    network = C3D(TINY)
    compiled = tf.function(network, input_signature=[tf.TensorSpec([None, 16, None, None, 3])])
    for number, height, width in ((1, 10, 23), (3, 8, 8), (2, 40, 33)):
        videos = tf.random.stateless_uniform([number, 16, height, width, 3], [0, height], -1, 1)
        outputs = compiled(videos)
        assert {name: tuple(value.shape) for name, value in outputs.items()} == {
            "fc6": (number, 5),
            "fc7": (number, 4),
            "fc8": (number, 3),
            "probabilities": (number, 3),
        }
        for name, value in network(videos).items():
            np.testing.assert_allclose(outputs[name], value, atol=1e-5, err_msg=name)


def test_fc6_reads_the_map_by_channels_first():
    """A network that copies the corners of its input: the last map of 40 pixels is 2x2, the second channel is 0."""
    network = C3D(C3DConfig(side=40, channels=(2,) * 8, units=(8, 1), num_classes=2))
    arrays = {name: np.zeros_like(array) for name, array in network.to_arrays().items()}
    for name in ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"):
        arrays[f"{name}/W"][0, 0, 1, 1, 1] = 1.0  # from channel 0 to channel 0, at the centre of the kernel
    arrays["fc6/W"] = np.eye(8, dtype=np.float32)
    network.assign_arrays(arrays, "identity")
    frame = np.zeros((40, 40), np.float32)
    frame[0, 0], frame[0, 39], frame[39, 0], frame[39, 39] = 0.1, 0.2, 0.3, 0.4  # cells of 32 pixels: a 2x2 map
    video = np.zeros((1, 16, 40, 40, 3), np.float32)
    video[:, 5, :, :, 0] = frame  # one frame suffices: max pooling
    np.testing.assert_allclose(network(video)["fc6"], [[0.1, 0.2, 0.3, 0.4, 0, 0, 0, 0]], atol=1e-6)


def test_features_are_those_behind_the_relu_and_probabilities_those_of_fc8():
    network = C3D(TINY)
    arrays = {name: np.zeros_like(array) for name, array in network.to_arrays().items()}
    arrays["fc6/b"][:] = [-1, 2, -3, 4, 5]
    arrays["fc7/b"][:] = [1, -2, 3, -4]
    arrays["fc8/b"][:] = np.log([2.0, 1.0, 1.0])
    network.assign_arrays(arrays, "by hand")
    outputs = network(tf.zeros([1, 16, 8, 8, 3]))
    np.testing.assert_array_equal(outputs["fc6"], [[0, 2, 0, 4, 5]])
    np.testing.assert_array_equal(outputs["fc7"], [[1, 0, 3, 0]])
    np.testing.assert_allclose(outputs["fc8"], np.log([[2.0, 1.0, 1.0]]), atol=1e-6)
    np.testing.assert_allclose(outputs["probabilities"], [[0.5, 0.25, 0.25]], atol=1e-6)


def test_dropout_is_given_by_its_seed_and_else_off():
    network = C3D(C3DConfig(side=8, channels=(2,) * 8, units=(1000, 1000), num_classes=2))
    arrays = {name: np.zeros_like(array) for name, array in network.to_arrays().items()}
    arrays["fc6/b"] += 3.0
    arrays["fc7/b"] += 5.0
    network.assign_arrays(arrays, "by hand")
    video = tf.zeros([1, 16, 8, 8, 3])
    for name, value in (("fc6", 3.0), ("fc7", 5.0)):
        np.testing.assert_array_equal(network(video)[name], np.full([1, 1000], value))
        dropped = network(video, dropout_seed=[0, 1])[name].numpy()
        assert set(dropped.ravel()) == {0.0, 2 * value}
        assert 0.4 < np.mean(dropped == 0) < 0.6
        np.testing.assert_array_equal(network(video, dropout_seed=[0, 1])[name], dropped)
        assert (network(video, dropout_seed=[0, 2])[name].numpy() != dropped).any()
    both = network(video, dropout_seed=[0, 1])
    assert ((both["fc6"] == 0).numpy() != (both["fc7"] == 0).numpy()).any(), "each layer drops units of its own"


@pytest.mark.parametrize("shape", [(1, 8, 8, 8, 3), (1, 17, 8, 8, 3), (16, 8, 8, 3), (1, 16, 8, 8, 1)])
def test_another_number_of_frames_is_one_clear_line(shape):
    with pytest.raises(UserError, match=r"^videos of shape \(.*\): C3D expects .*, exactly 16 frames$"):
        C3D(TINY)(tf.zeros(shape))


def test_bytes_are_refused():
    with pytest.raises(TypeError, match="videos of uint8"):
        C3D(TINY)(tf.zeros([1, 16, 8, 8, 3], tf.uint8))


def test_weights_go_into_a_file_and_come_back(tmp_path):
    network, other = C3D(TINY), C3D(TINY)
    videos = tf.random.stateless_uniform([2, 16, 9, 9, 3], [0, 1], -1, 1)
    assert (network(videos)["fc6"].numpy() != other(videos)["fc6"].numpy()).any()
    arrays = network.to_arrays()
    assert arrays["conv2a/W"].shape == (3, 2, 3, 3, 3) and arrays["fc7/W"].shape == (4, 5)
    np.savez(tmp_path / "weights.npz", **arrays)
    other.assign_arrays(read_npz(tmp_path / "weights.npz", "a test"), "weights.npz")
    for name, value in network(videos).items():
        np.testing.assert_array_equal(other(videos)[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("conv3b/W", None, "'conv3b/W' is missing; expected an array of shape [3, 2, 3, 3, 3]"),
        ("fc8/b", np.zeros(4, np.float32), "'fc8/b' has shape [4]; expected [3]"),
        ("fc7/W", np.zeros((4, 5), np.int64), "'fc7/W' has dtype int64; expected float32"),
    ],
    ids=["missing", "another shape", "no real numbers"],
)
def test_a_wrong_array_is_named_and_nothing_is_taken_over(name, array, message):
    network, before = C3D(TINY), C3D(TINY)
    before.set_weights(network.get_weights())
    arrays = {**C3D(TINY).to_arrays(), name: array}
    with pytest.raises(UserError) as error:
        network.assign_arrays({key: value for key, value in arrays.items() if value is not None}, "some/file.npz")
    assert str(error.value) == f"some/file.npz: {message}"
    for now, then in zip(network.get_weights(), before.get_weights()):
        np.testing.assert_array_equal(now, then)


def test_fitting_standardizes_every_unit_before_its_relu(monkeypatch):
    """Clips that share a dark background with thin lines. After `fit_to`, the lines determine the logits."""
    config = C3DConfig(side=32, channels=(4, 5, 6, 6, 7, 7, 8, 8), units=(9, 10), num_classes=3)
    rng = np.random.default_rng(0)
    videos = np.full((24, 16, 32, 32, 3), -0.8, np.float32) + rng.normal(0, 0.005, (24, 16, 32, 32, 3))
    for number in range(24):
        row = rng.integers(2, 28)
        videos[number, :, row, rng.integers(0, 12) : rng.integers(20, 32)] = rng.uniform(-0.5, 1, 3)
    videos = tf.constant(videos, tf.float32)
    tf.keras.utils.set_random_seed(1)
    network = C3D(config)
    layers = (*network.convolutions, network.fc6, network.fc7, network.fc8)

    def seen():
        """Returns the output of every layer, without ReLU."""
        values = {}

        def noted(value, name):
            values[name] = value
            return tf.nn.relu(value)

        with monkeypatch.context() as patch:
            for layer in layers[:-1]:
                patch.setattr(layer, "activation", functools.partial(noted, name=layer.name))
            values["fc8"] = network(videos)["fc8"]
        return {name: value.numpy() for name, value in values.items()}

    def spread_between_clips(outputs):
        """Returns the fraction of the logits' energy that differs between clips."""
        return outputs["fc8"].std(0).mean() / np.sqrt(np.mean(outputs["fc8"] ** 2))

    before = seen()
    network.fit_to(videos)
    after = seen()
    assert set(after) == {layer.name for layer in layers}
    for name, value in after.items():
        units = value.reshape(-1, value.shape[-1])
        np.testing.assert_allclose(units.mean(0), 0, atol=0.02, err_msg=name)  # float32 sums
        alive = units.std(0) > 0.5 * (0.1 if name == "fc8" else 1)
        assert alive.mean() > 0.7, name
        np.testing.assert_allclose(units.std(0)[alive], 0.1 if name == "fc8" else 1.0, rtol=0.01, err_msg=name)
    assert spread_between_clips(before) < 0.5 < 0.95 < spread_between_clips(after)


def test_fitting_does_not_blow_up_what_does_not_vary():
    network = C3D(TINY)
    before = network.get_weights()
    network.fit_to(tf.zeros([2, 16, 8, 8, 3]))
    for old, new in zip(before[::2], network.get_weights()[::2]):
        assert np.abs(new).max() <= 100.001 * np.abs(old).max()
    assert np.isfinite(network(tf.ones([1, 16, 8, 8, 3]))["fc8"]).all()


def test_wrong_files_are_named(tmp_path):
    mean, weights = tmp_path / "mean2.npz", tmp_path / "weights.npz"
    np.savez(mean, mean=authors_mean(np.random.RandomState(0)))

    def fails(message):
        with pytest.raises(UserError) as error:
            load_c3d(weights, mean)
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)

    fails(f"{weights}: no such file")
    weights.write_bytes(b"<html>Not Found</html>")
    fails(f"{weights}: cannot be read as an .npz of the authors' code")
    np.savez(weights, **{"conv1a/W": np.array({"a": "pickle"})})
    fails(f"{weights}: cannot be read as an .npz of the authors' code at 'conv1a/W'")
    with open(weights, "wb") as file:
        np.save(file, np.zeros(3))
    fails(f"{weights}: a single array")
    np.savez(weights, **{"conv1a/W": np.zeros((64, 3, 3, 3, 2), np.float32)})
    fails(f"{weights}: 'conv1a/W' has shape [64, 3, 3, 3, 2]; expected [64, 3, 3, 3, 3]")
    content = bytearray(mean.read_bytes())
    content[len(content) // 2] ^= 1
    mean.write_bytes(content)
    fails(f"{mean}: cannot be read as an .npz of the authors' code at 'mean': Bad CRC-32")
    np.savez(mean, mean=np.zeros((3, 112, 112), np.float32))
    fails(f"{mean}: 'mean' has shape [3, 112, 112]; expected [3, 16, 128, 171]")
    np.savez(mean, means=np.zeros(3))
    fails(f"{mean}: 'mean' is missing; expected an array of shape [3, 16, 128, 171]")
