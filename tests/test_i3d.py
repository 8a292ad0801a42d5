"""The network of FVD: modules in both formats, stand-ins with features computed by hand, and rejected modules."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import types
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tganv2_tf.errors import UserError
from tganv2_tf.evaluation.i3d import load_i3d
from tganv2_tf.runtime import lanes

VIDEO = tf.TensorSpec([None, None, 224, 224, 3], tf.float32, "video")


def save_module(folder, function, spec=VIDEO, signature="serving_default"):
    """Writes a TF2 SavedModel with one signature, `function` times a variable that is 1; returns its path."""
    module = tf.Module()
    module.one = tf.Variable(1.0)
    served = tf.function(lambda video: {name: module.one * value for name, value in function(video).items()})
    tf.saved_model.save(module, str(folder), {signature: served.get_concrete_function(spec)})
    return str(folder)


def save_hub_module(folder):
    """Writes a module in TF1 hub format, with a graph without tags and one for training; returns its path.

    The features are mean, 2 * mean and 3 * mean of each video; those of training are 0. The weights are variables.
    """
    v1 = tf.compat.v1
    builder = v1.saved_model.Builder(str(folder))
    for training in (False, True):
        with v1.Graph().as_default(), v1.Session() as session:
            video = v1.placeholder(tf.float32, VIDEO.shape)
            weights = v1.get_variable("weights", initializer=[1.0, 2.0, 3.0], use_resource=False)
            means = tf.reduce_mean(video, [1, 2, 3, 4])[:, tf.newaxis]
            logits = means * (0.0 if training else weights)
            info = v1.saved_model.build_tensor_info
            signature = v1.saved_model.build_signature_def(
                {"rgb_input": info(video)}, {"default": info(logits), "RGB/means": info(means)}
            )
            if training:
                builder.add_meta_graph(["train"], signature_def_map={"default": signature})
            else:
                session.run(v1.global_variables_initializer())
                builder.add_meta_graph_and_variables(session, [], signature_def_map={"default": signature})
    builder.save()
    (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")  # field 1, the format: 3
    return str(folder)


def first_row_and_column(video):
    """Returns features of the first frame: red along the top edge, green along the left edge."""
    return {"edges": tf.concat([video[:, 0, 0, :, 0], video[:, 0, :, 0, 1]], 1)}


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Paths of modules that no test changes."""
    folder = tmp_path_factory.mktemp("modules")
    return types.SimpleNamespace(
        edges=save_module(folder / "edges", first_row_and_column),
        frames=save_module(folder / "frames", lambda video: {"means": tf.reduce_mean(video[:, :, :, :, 2], [2, 3])}),
        hub=save_hub_module(folder / "hub"),
    )


@contextlib.contextmanager
def one_line(expected):
    """Expects a UserError of one line that contains this text."""
    with pytest.raises(UserError) as error:
        yield
    message = str(error.value)
    assert expected in message
    assert "\n" not in message


def ramps(height, width):
    """Returns float32 [1, 9, height, width, 3] in [-1, 1]: red rises to the right, green downwards."""
    video = np.zeros((1, 9, height, width, 3), np.float32)
    video[..., 0] = np.linspace(-1, 1, width)
    video[..., 1] = np.linspace(-1, 1, height)[:, np.newaxis]
    return video


@pytest.mark.parametrize(("height", "width"), [(112, 56), (64, 64), (224, 224), (300, 448)])
def test_frames_are_resized_as_tensorflow_1_did(modules, height, width):
    # Output pixel i is at position i * size / 224 of the input; positions after the last pixel repeat it.
    positions = np.arange(224)
    red = np.interp(positions * width / 224, np.arange(width), np.linspace(-1, 1, width))
    green = np.interp(positions * height / 224, np.arange(height), np.linspace(-1, 1, height))
    features = load_i3d(modules.edges)(ramps(height, width)).numpy()
    assert (features.shape, features.dtype) == ((1, 448), np.float32)
    np.testing.assert_allclose(features[0], np.concatenate([red, green]), atol=1e-6)


def test_resizing_by_hand(modules):
    video = np.zeros((1, 9, 112, 112, 3), np.float32)
    video[..., 3, 0], video[..., 111, 0] = 1.0, -1.0
    row = load_i3d(modules.edges)(video).numpy()[0, :224]
    expected = np.zeros(224)
    expected[5:8] = 0.5, 1, 0.5  # input pixel 3 is output pixel 6
    expected[221:] = -0.5, -1, -1
    np.testing.assert_allclose(row, expected, atol=1e-6)


def test_resizing_in_bytes_and_scaling_afterwards_is_the_same(modules):
    frame = np.random.default_rng(0).integers(0, 256, (1, 9, 40, 30, 3)).astype(np.float32)
    resized = tf.raw_ops.ResizeBilinear(images=frame[0], size=[224, 224], align_corners=False).numpy()
    expected = 2 * resized / 255 - 1
    features = load_i3d(modules.edges)(2 * frame / 255 - 1).numpy()[0]
    np.testing.assert_allclose(features[:224], expected[0, 0, :, 0], atol=1e-6)
    np.testing.assert_allclose(features[224:], expected[0, :, 0, 1], atol=1e-6)


@pytest.mark.parametrize("num_frames", [9, 16])
def test_every_frame_of_every_video_is_used_in_its_place(modules, num_frames):
    values = np.random.default_rng(0).uniform(-1, 1, (3, num_frames))
    video = np.zeros((3, num_frames, 8, 8, 3), np.float32)
    video[..., 2] = values[:, :, np.newaxis, np.newaxis]
    features = load_i3d(modules.frames)(tf.constant(video)).numpy()
    np.testing.assert_allclose(features, values, atol=1e-5)


def test_a_module_in_tf1_hub_format(modules):
    i3d = load_i3d(modules.hub)
    video = np.stack([np.full((9, 10, 12, 3), value, np.float32) for value in (-1.0, 0.25)])
    np.testing.assert_allclose(i3d(video).numpy(), [[-1.0, -2.0, -3.0], [0.25, 0.5, 0.75]], atol=1e-5)
    assert i3d.path == modules.hub


def test_nothing_is_said_of_variables_of_tensorflow_1(modules):
    # In a separate process, as TensorFlow logs only the first five such messages.
    command = f"from tganv2_tf.evaluation.i3d import load_i3d; print(load_i3d({modules.hub!r}).checksum)"
    finished = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert finished.stdout.strip() == load_i3d(modules.hub).checksum
    assert "reference variable" not in finished.stderr


def test_the_signature_default_comes_first_and_the_output_default_among_several(tmp_path):
    module = tf.Module()
    mean = lambda video: tf.reduce_mean(video, [1, 2, 3])  # noqa: E731
    other = tf.function(lambda video: {"wrong": mean(video) - 1}).get_concrete_function(VIDEO)
    right = tf.function(lambda video: {"a": mean(video) - 2, "default": mean(video), "frames": tf.shape(video)})
    tf.saved_model.save(
        module, str(tmp_path), {"serving_default": other, "default": right.get_concrete_function(VIDEO)}
    )
    features = load_i3d(str(tmp_path))(np.full((1, 9, 8, 8, 3), 0.5, np.float32))
    np.testing.assert_allclose(features, [[0.5, 0.5, 0.5]], atol=1e-5)


def means(video):
    return tf.reduce_mean(video, [1, 2, 3])


@pytest.mark.parametrize(
    ("function", "specs", "expected"),
    [
        (
            lambda video: {"a": means(video), "b": means(video)},
            [VIDEO],
            "has outputs 'a': float32 (None, 3), 'b': float32",
        ),
        (lambda video: {"logits": tf.reduce_mean(video, [2, 3])}, [VIDEO], "expected a float32 [N, d]"),
        (lambda video: {"default": means(tf.cast(video, tf.int32))}, [VIDEO], "expected a float32 [N, d]"),
        (
            lambda image: {"default": tf.reduce_mean(image, [1, 2])},
            [tf.TensorSpec([None, 224, 224, 3], tf.float32, "image")],
            "has inputs 'image': float32 (None, 224, 224, 3); expected one float32 [N, T, 224, 224, 3]",
        ),
        (
            lambda video: {"default": means(tf.cast(video, tf.float32))},
            [tf.TensorSpec(VIDEO.shape, tf.uint8, "video")],
            "has inputs 'video': uint8",
        ),
        (
            lambda default, rate: {"default": means(default) * rate},
            [tf.TensorSpec(VIDEO.shape, tf.float32, "default"), tf.TensorSpec([], tf.float32, "rate")],
            "'rate': float32 ()",
        ),
    ],
    ids=["two outputs", "one per frame", "whole numbers", "images", "bytes", "two inputs"],
)
def test_networks_that_do_not_fit_are_refused(tmp_path, function, specs, expected):
    tf.saved_model.save(tf.Module(), str(tmp_path), {"default": tf.function(function).get_concrete_function(*specs)})
    with one_line(expected):
        load_i3d(str(tmp_path))


def test_other_signatures_are_named(tmp_path):
    path = save_module(tmp_path, first_row_and_column, signature="classify")
    with one_line(f"{path}: has the signatures ['classify']; expected one of ('default', 'serving_default')"):
        load_i3d(path)


def test_folders_without_a_whole_savedmodel_are_refused(tmp_path, modules):
    for path in (tmp_path / "nowhere", tmp_path):
        with one_line(f"{path}: no SavedModel found; specify the folder"):
            load_i3d(str(path))
    for source in (modules.hub, modules.frames):
        for file, content in (("saved_model.pb", b"not a SavedModel"), ("saved_model.pb", b""), ("variables", None)):
            copy = tmp_path / "copy"
            shutil.copytree(source, copy)
            if content is None:
                shutil.rmtree(copy / file)
            else:
                (copy / file).write_bytes(content)
            # The first line of TensorFlow's own errors is only the position in the graph.
            reason = "NotFoundError" if (source, content) == (modules.hub, None) else ""
            with one_line(f"{copy}: the SavedModel cannot be loaded and may be incomplete: {reason}"):
                load_i3d(str(copy))
            shutil.rmtree(copy)


def halved_three_times(video):
    """Treats time like I3D: three strides of 2, padded at the end, then a window of two steps."""
    features = tf.reduce_mean(video, [2, 3], keepdims=True)
    for _ in range(3):
        features = tf.nn.max_pool3d(features, [1, 2, 1, 1, 1], [1, 2, 1, 1, 1], "SAME")
    return {"logits": tf.reduce_mean(tf.nn.avg_pool3d(features, [1, 2, 1, 1, 1], [1, 1, 1, 1, 1], "VALID"), [1, 2, 3])}


def test_videos_that_are_too_short_are_refused(tmp_path):
    i3d = load_i3d(save_module(tmp_path, halved_three_times))
    video = np.full((1, 9, 8, 8, 3), 0.5, np.float32)
    np.testing.assert_allclose(i3d(video), [[0.5, 0.5, 0.5]], atol=1e-5)
    with one_line(f"{tmp_path}: features of 8 frames are not finite; I3D needs 9 or more"):
        i3d(video[:, :8])


def test_numbers_of_frames_that_a_network_cannot_take_are_refused(tmp_path):
    video = np.zeros((1, 12, 8, 8, 3), np.float32)
    fixed = tf.TensorSpec([None, 16, 224, 224, 3], tf.float32, "video")
    declared = load_i3d(save_module(tmp_path / "declared", first_row_and_column, fixed))
    with one_line("expected videos of shape (None, 16, 224, 224, 3), got (1, 12, 224, 224, 3)"):
        declared(video)
    inside = load_i3d(
        save_module(tmp_path / "inside", lambda video: {"f": tf.ensure_shape(video, fixed.shape)[:, :, 0, 0, 0]})
    )
    with one_line("does not accept 12 frames"):
        inside(video)


def test_wrong_videos_are_refused(modules):
    i3d = load_i3d(modules.edges)
    for shape in ((9, 8, 8, 3), (1, 9, 8, 8, 1), (0, 9, 8, 8, 3)):
        with pytest.raises(ValueError, match=r"expected a non-empty \[N, T, H, W, 3\]"):
            i3d(np.zeros(shape, np.float32))
    video = np.zeros((1, 9, 8, 8, 3), np.float32)
    for value in (1.01, -1.01, np.nan):
        video[0, 4, 2, 2, 1] = value
        with one_line("videos contain values that are outside of [-1, 1] or not finite"):
            i3d(video)
    i3d(np.full_like(video, 1.0005))  # slightly out of range, as after rounding


def test_the_checksum_is_that_of_names_and_contents(tmp_path, modules):
    first = load_i3d(modules.hub).checksum
    assert first.startswith("sha256:") and len(first) == 7 + 64
    copy = tmp_path / "elsewhere"
    shutil.copytree(modules.hub, copy)
    assert load_i3d(str(copy)).checksum == first
    seen = [first, load_i3d(modules.frames).checksum]
    assets = copy / "assets"
    for files in ({"a": b"1"}, {"a": b"2"}, {"b": b"2"}, {"b": b"2", "c": b"1"}, {"b": b"1", "c": b"2"}):
        assets.mkdir()
        for name, content in files.items():
            (assets / name).write_bytes(content)
        seen.append(load_i3d(str(copy)).checksum)
        shutil.rmtree(assets)
    assert len(set(seen)) == 7
    assert load_i3d(str(copy)).checksum == first


URL = "https://tfhub.dev/deepmind/i3d-kinetics-400/1"


def test_urls_go_through_tensorflow_hub(monkeypatch, modules):
    hub = mock.Mock()
    hub.resolve.return_value = modules.hub
    monkeypatch.setitem(sys.modules, "tensorflow_hub", hub)
    i3d = load_i3d(URL)
    hub.resolve.assert_called_once_with(URL)
    assert (i3d.path, i3d.checksum) == (URL, load_i3d(modules.hub).checksum)
    hub.resolve.side_effect = OSError("<urlopen error [Errno -2] Name or service not known>\nand more")
    with one_line(f"{URL}: TensorFlow Hub cannot download the module: <urlopen error"):
        load_i3d(URL)


def test_without_tensorflow_hub_a_url_says_how_to_install_it(monkeypatch, modules):
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)  # makes its import fail
    load_i3d(modules.hub)  # not needed for a folder
    install = lanes.install_command("fvd")
    with one_line(f"{URL}: TensorFlow Hub is not installed; {install}, or specify the folder"):
        load_i3d(URL)
    pins = [line for line in (ROOT / "requirements-fvd.txt").read_text().splitlines() if not line.startswith("#")]
    assert pins == ["tensorflow-hub==0.16.1"]
