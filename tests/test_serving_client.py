"""examples/serving, docs/serving.md and the export's warm-up, with a double of TensorFlow Serving."""

import http.server
import json
import pathlib
import re
import shlex
import subprocess
import sys
import threading
import urllib.request

import grpc
import imageio.v3 as iio
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image, ImageSequence
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from examples.serving import client
from tests.conftest import ROOT, tiny_config
from tests.serving_double import Fault, Model, serve
from tganv2_tf.models.generator import Generator
from tganv2_tf.models.latents import latents_from_seeds
from tganv2_tf.serving import signatures, warmup

SERVING = ROOT / "examples" / "serving"


@pytest.fixture(scope="module", autouse=True)
def no_proxy():
    """The doubles run on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        yield


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert client.parse(["--output=~/a.gif"]).output == pathlib.Path("/home/me/a.gif")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The export of a tiny generator, served as `demo`, as in the documentation."""
    folder = signatures.export(Generator(tiny_config().model), tmp_path_factory.mktemp("saved") / "demo")
    with serve(Model("demo", folder)) as server:
        yield server


@pytest.fixture(scope="module")
def conditional():
    """A generator of three classes that differ."""
    tf.random.set_seed(0)
    generator = Generator(tiny_config(model={"conditional": True, "num_classes": 3}).model)
    for variable in generator.trainable_variables:
        variable.assign_add(tf.random.normal(variable.shape, stddev=0.3))
    return generator


@pytest.fixture(scope="module")
def shapes(conditional, tmp_path_factory):
    """Its export, served as `shapes`."""
    names = ("circle", "square", "triangle")
    folder = signatures.export(conditional, tmp_path_factory.mktemp("saved") / "shapes", class_names=names)
    with serve(Model("shapes", folder)) as server:
        yield server


class Painter(tf.Module):
    """A stand-in for a conditional generator: a frame shows the last digits of its seed, its number and its label."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([], tf.int64, "seed"),
            tf.TensorSpec([], tf.int32, "num_videos"),
            tf.TensorSpec([], tf.int32, "num_frames"),
            tf.TensorSpec([None], tf.int32, "label"),
        ]
    )
    def generate(self, seed, num_videos, num_frames, label):
        tf.debugging.assert_less(label, 3, "label must be from 0 to 2")
        seeds = seed + tf.cast(tf.range(num_videos), tf.int64)
        shape = tf.stack([num_videos, num_frames, 4, 6])
        channels = [
            tf.broadcast_to(tf.cast(seeds % 200, tf.uint8)[:, None, None, None], shape),
            tf.broadcast_to(tf.cast(tf.range(num_frames), tf.uint8)[None, :, None, None], shape),
            tf.broadcast_to(tf.cast(label, tf.uint8)[:, None, None, None], shape),
        ]
        return {"videos": tf.stack(channels, -1)}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "z")])
    def serving_default(self, z):
        return {"videos": tf.zeros([tf.shape(z)[0], 5, 4, 6, 3], tf.uint8)}


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    """The stand-in, served as version 7."""
    module, folder = Painter(), tmp_path_factory.mktemp("saved") / "painter" / "7"
    functions = {"serving_default": module.serving_default, "generate": module.generate}
    tf.saved_model.save(module, str(folder), {key: value.get_concrete_function() for key, value in functions.items()})
    with serve(Model("painter", folder)) as server:
        yield server


def ask(server, interface, *arguments, monkeypatch):
    """Returns the videos that the client receives."""
    got: list[np.ndarray] = []
    monkeypatch.setattr(client, "grid", got.append)
    monkeypatch.setattr(client, "write_video", lambda *_: None)
    options = [getattr(server, interface), f"--model={server.model.name}", "--output=x.gif", *arguments]
    assert client.main(options) == 0
    return got[0]


def fail(capsys, *arguments):
    """Returns the one-line error of the client."""
    with pytest.raises(SystemExit) as end:
        sys.exit(client.main(["--output=x.mp4", *arguments]))
    out, err = capsys.readouterr()
    assert (end.value.code, out) in ((1, ""), (2, ""))
    assert err.count("\n") == 1 and err.startswith("client: ")
    return err


# ---- requests and answers


@pytest.mark.parametrize("interface", ["rest", "grpc"])
def test_the_videos_are_those_of_the_seeds_and_classes(shapes, conditional, interface, monkeypatch):
    videos = ask(shapes, interface, "--seed=3", "--num_videos=2", "--label=2,0", monkeypatch=monkeypatch)
    z = latents_from_seeds(tf.constant([3, 4], tf.int64), 4)
    expected, others = (
        signatures.quantize(conditional(z, labels=tf.constant(labels))).numpy().astype(int)
        for labels in ([2, 0], [0, 2])
    )
    assert videos.dtype == np.uint8
    assert videos.shape == (2, 4, 16, 16, 3), "as many frames as in training"
    assert np.abs(videos - expected).max() <= 1
    assert (np.abs(videos - others).max(axis=(1, 2, 3, 4)) > 10).all(), "the classes must differ for this to mean much"
    assert np.abs(videos[0] - expected[1]).max() > 10, "and so must the seeds"


@pytest.mark.parametrize("interface", ["rest", "grpc"])
def test_all_options_reach_the_model(painter, interface, monkeypatch):
    arguments = [f"--seed={2**62 + 1}", "--num_videos=3", "--num_frames=2", "--label=2,0,1", "--version=7"]
    videos = ask(painter, interface, *arguments, monkeypatch=monkeypatch)
    assert videos.shape == (3, 2, 4, 6, 3)
    # 2^62 + 1 = 4611686018427387905 is not representable in float64.
    assert videos[:, 0, 0, 0, 0].tolist() == [105, 106, 107]
    assert videos[0, :, 3, 5, 1].tolist() == [0, 1]
    assert videos[:, 0, 0, 0, 2].tolist() == [2, 0, 1]
    videos = ask(painter, interface, "--num_videos=2", "--label=1", monkeypatch=monkeypatch)
    assert videos.shape == (2, 5, 4, 6, 3)
    assert videos[..., 2].tolist() == np.ones([2, 5, 4, 6]).tolist(), "one class for all"


def test_a_grpc_answer_may_be_larger_than_four_megabytes(painter, monkeypatch):
    videos = ask(painter, "grpc", "--num_videos=150", "--num_frames=400", "--label=0", monkeypatch=monkeypatch)
    assert videos.nbytes > 4 * 2**20
    assert videos[7, 250, 0, 0].tolist() == [7, 250, 0]


# ---- output files


@pytest.mark.parametrize(("interface", "suffix"), [("rest", "mp4"), ("grpc", "gif")])
def test_the_answer_becomes_a_video(demo, tmp_path, capsys, interface, suffix):
    output = tmp_path / "new" / f"x.{suffix}"
    arguments = [getattr(demo, interface), "--num_videos=3", "--num_frames=6", "--fps=5", f"--output={output}"]
    assert client.main(arguments) == 0
    assert capsys.readouterr().out == f"3 videos of 6 frames: {output}\n"
    assert iio.imread(output).shape == (6, 32, 32, 3)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_the_grid_is_filled_row_by_row_and_has_even_sizes():
    videos = np.arange(1, 4, dtype=np.uint8)[:, None, None, None, None] * np.ones([3, 2, 3, 5, 3], np.uint8)
    canvas = client.grid(videos)
    assert canvas.shape == (2, 6, 10, 3)
    assert canvas[1, ::3, ::5, 0].tolist() == [[1, 2], [3, 0]]
    assert client.grid(videos[:1]).shape == (2, 4, 6, 3)


def test_what_cannot_be_written_is_one_line(demo, tmp_path, capsys):
    tmp_path.joinpath("file").touch()
    tmp_path.joinpath("folder.gif").mkdir()
    for name in ("file/x.gif", "folder.gif"):
        line = fail(capsys, demo.rest, f"--output={tmp_path}/{name}")
        assert f"--output={tmp_path}/{name}: " in line and "Errno" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.gif"]


# ---- errors


@pytest.mark.parametrize("interface", ["rest", "grpc"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=nobody"], "Servable not found for request: Latest(nobody); check --model and --version"),
        (["--version=8"], "Servable not found for request: Specific(shapes, 8); check --model and --version"),
        ([], "--model=shapes needs a class: specify --label=NUMBER"),
        (["--label=3"], ": label must be from 0 to 2\n"),
    ],
)
def test_a_refusal_is_one_line(shapes, capsys, interface, arguments, message):
    assert message in fail(capsys, getattr(shapes, interface), "--model=shapes", *arguments)


@pytest.mark.parametrize("interface", ["rest", "grpc"])
def test_a_label_needs_a_conditional_model(demo, capsys, interface):
    assert "--model=demo has no classes: omit --label" in fail(capsys, getattr(demo, interface), "--label=1")


@pytest.mark.parametrize("interface", ["rest", "grpc"])
def test_patience_ends(painter, capsys, interface):
    painter.model.gate.clear()
    try:
        line = fail(capsys, getattr(painter, interface), "--model=painter", "--label=0", "--timeout=0.3")
    finally:
        painter.model.gate.set()
    assert "no response within 0.3 s; raise --timeout" in line


def test_the_server_s_own_patience_ends(painter, capsys, monkeypatch):
    def predict(_):
        raise Fault(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification")

    monkeypatch.setattr(painter.model, "predict", predict)
    line = fail(capsys, painter.rest, "--model=painter", "--label=0")
    assert "Timed out waiting for notification; raise the server's --rest_api_timeout_in_ms" in line


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A server of something else."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write({"a": b"<html>", "b": b'{"metadata": 1}'}[self.path.split("/")[3]])


def test_no_server_or_another_one_is_one_line(painter, capsys):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        port = web.server_port
        for model in "ab":
            line = fail(capsys, f"--url=http://127.0.0.1:{port}", f"--model={model}")
            assert line == f"client: http://127.0.0.1:{port} does not respond like TensorFlow Serving\n"
        web.shutdown()
    assert f"http://127.0.0.1:{port}: cannot connect" in fail(capsys, f"--url=http://127.0.0.1:{port}")
    assert f"127.0.0.1:{port}: cannot connect" in fail(capsys, f"--grpc=127.0.0.1:{port}")
    assert "cannot connect" in fail(capsys, f"--url=http://127.0.0.1:{painter.grpc_port}")
    assert "cannot connect" in fail(capsys, f"--grpc=127.0.0.1:{painter.rest_port}")


@pytest.mark.parametrize(
    "argument",
    [
        "--num_videos=0",
        "--num_frames=-1",
        "--seed=-1",
        f"--seed={2**63}",
        "--fps=0",
        "--timeout=0",
        "--url=127.0.0.1:8501",
        "--output=x.avi",
        "--label=cat",
        "--label=1,2",
        "--seeds=3",
    ],
)
def test_wrong_flags_are_named(capsys, argument):
    assert argument.partition("=")[0] in fail(capsys, argument)


# ---- the export


def test_the_warm_up_of_an_export_runs(shapes):
    asked = []
    for record in tf.data.TFRecordDataset(str(shapes.model.folder / warmup.PATH)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        request.model_spec.name = "shapes"
        (videos,) = (tf.make_ndarray(proto) for proto in shapes.model.predict(request).outputs.values())
        asked.append((request.model_spec.signature_name, videos.dtype.name, videos.shape))
    assert asked == [
        ("generate", "uint8", (1, 4, 16, 16, 3)),
        ("generate_float", "float32", (1, 4, 16, 16, 3)),
        ("preview", "uint8", (1, 4, 8, 8, 3)),
        ("preview", "uint8", (1, 4, 16, 16, 3)),
        ("serving_default", "uint8", (1, 4, 16, 16, 3)),
    ]


# ---- other files in the client's folder


def test_the_configuration_is_the_server_s():
    text = (SERVING / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("demo", "/models/demo", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 1


def test_the_health_check_waits_for_an_available_version(demo, monkeypatch):
    (line,) = re.findall(r"^\s+test: (\[.*\])$", (SERVING / "compose.yaml").read_text(), re.MULTILINE)
    keyword, *command = json.loads(line)
    assert keyword == "CMD"

    def healthy(port):
        script = command[-1].replace("8501", str(port))
        return subprocess.run([*command[:-1], script], capture_output=True, timeout=10).returncode == 0

    assert healthy(demo.rest_port)
    monkeypatch.setattr(demo.model, "state", "LOADING")
    assert not healthy(demo.rest_port)
    assert not healthy(1)


# ---- the documentation


def test_every_request_of_the_documentation_is_answered(demo, shapes, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "serving.md").read_text().replace("\\\n", "")
    ports = {"demo": demo.rest_port, "shapes": shapes.rest_port}
    answered = []
    for data, path, model in re.findall(r"curl (?:-d '(.*?)' +)?http://127.0.0.1:8501(/v1/models/(\w+)\S*)", text):
        url = f"http://127.0.0.1:{ports[model]}{path}"
        with urllib.request.urlopen(url, data.encode() or None) as response:
            answer = json.load(response)
        answered.append((model, *((key, np.shape(value)) for key, value in answer.items())))
    assert answered == [
        ("demo", ("model_spec", ()), ("metadata", ())),
        ("demo", ("outputs", (2, 6, 16, 16, 3))),
        ("demo", ("predictions", (1, 4, 16, 16, 3))),
        ("shapes", ("predictions", (1, 4, 16, 16, 3))),
    ]
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for line in re.findall(r"python examples/serving/client.py (.*)", text)]
    for options in commands:
        chosen = demo.grpc if any(option.startswith("--grpc=") for option in options) else demo.rest
        assert client.main([*options, chosen]) == 0  # the last flag takes precedence: the double's port
    assert iio.imread("videos.mp4").shape == (4, 32, 32, 3)
    with Image.open("long.gif") as gif:
        # Equal frames are written as one longer frame.
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(gif)) == 64 * 100
