"""Files by address: against a true S3-protocol server on loopback, plain http, and a server that fails on demand."""

from __future__ import annotations

import errno
import functools
import http.server
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import tensorflow as tf

from tests import buckets
from tests.buckets import Proxy
from tests.conftest import TINY_FLAGS
from tests.forking import fork_command
from tganv2_tf import files, storage
from tganv2_tf.data import reading
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import UserError

BUCKET = "bucket"


class Files(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, as any web server gives them."""

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """That of commands, with a bucket; this process has it too."""
    with buckets.bucket(BUCKET):
        yield {**os.environ}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BACK_OFF", (0.01,) * 4)
    Proxy.faults.clear()
    Proxy.answered.clear()


def serve(folder: pathlib.Path) -> http.server.ThreadingHTTPServer:
    handler = functools.partial(Files, directory=os.fspath(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def succeed(environment: dict[str, str], module: str, *arguments: str, stderr: bool = False) -> str:
    result = fork_command(module, *arguments, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stderr if stderr else result.stdout


@pytest.mark.usefixtures("quick")
def test_files_in_a_bucket(environment: dict[str, str]) -> None:
    folder = f"s3://{BUCKET}/files"
    assert storage.names(folder) == []
    assert not storage.exists(folder)
    files.write_atomically(storage.join(folder, "a", "b.txt"), "ä")
    assert storage.names(folder) == ["a"]
    assert (storage.is_folder(f"{folder}/a"), storage.is_folder(f"{folder}/a/b.txt")) == (True, False)
    assert (storage.size(f"{folder}/a/b.txt"), storage.read_text(f"{folder}/a/b.txt")) == (2, "ä")
    storage.copy(f"{folder}/a/b.txt", f"{folder}/c.txt")
    storage.remove(f"{folder}/a/b.txt")
    assert storage.names(f"{folder}/") == ["c.txt"]
    storage.remove_folder(folder)
    assert not storage.exists(f"{folder}/c.txt")
    with pytest.raises(FileNotFoundError, match="No such file"):
        storage.read_bytes(f"{folder}/c.txt")
    with pytest.raises(ZeroDivisionError), files.whole_file(f"{folder}/d.txt") as path:
        path.write_text(f"half {1 / 0}")
    assert storage.names(folder) == []


@pytest.mark.usefixtures("quick")
def test_a_server_that_fails_for_a_while_is_waited_for(environment: dict[str, str]) -> None:
    """Three attempts are the plugin's own, so more than three faults are ours."""
    path = f"s3://{BUCKET}/waited/a.txt"
    files.write_atomically(path, "whole")
    Proxy.faults += [503] * 7
    assert storage.read_text(path) == "whole"
    Proxy.faults += [503] * 8  # both of what the plugin asks about a file, so that it says there is none
    assert storage.exists(path)
    assert len(Proxy.answered) == 15
    assert not Proxy.faults


@pytest.mark.usefixtures("quick")
def test_what_did_not_come_whole_is_not_believed(environment: dict[str, str], tmp_path: pathlib.Path) -> None:
    path = f"s3://{BUCKET}/part/a.txt"
    files.write_atomically(path, "whole")
    files.write_atomically(f"{path}.empty", "")
    with pytest.raises(storage._AgainError):
        storage._check_length(path, 3)
    for call in (storage.read_bytes, lambda address: storage.copy(address, tmp_path / "copy")):
        call(path)
        with pytest.raises(OSError, match="did not come whole, or is empty"):
            call(f"{path}.empty")
    assert (tmp_path / "copy").read_text() == "whole"


def test_copies_of_shards_are_kept_while_they_are_used(environment: dict[str, str]) -> None:
    for name in "abc":
        files.write_atomically(f"s3://{BUCKET}/copies/{name}", name)
    copies = reading.Copies(2)
    first, second = (copies.of(f"s3://{BUCKET}/copies/{name}") for name in "ab")
    with open(second) as still_read:
        assert copies.of(f"s3://{BUCKET}/copies/a") == first
        copies.of(f"s3://{BUCKET}/copies/c")
        assert (os.path.exists(first), os.path.exists(second)) == (True, False)  # b was used the longest time ago
        assert still_read.read() == "b"
    with pytest.raises(FileNotFoundError):
        copies.of(f"s3://{BUCKET}/copies/d")


@pytest.mark.usefixtures("quick")
def test_what_tensorflow_does_is_waited_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [tf.errors.UnknownError(None, None, ": curlCode: 7, Couldn't connect to server")] * 3

    def function() -> str:
        if faults:
            raise faults.pop()
        return "done"

    assert storage.patiently(f"s3://{BUCKET}/x", function) == "done"
    faults += [tf.errors.UnknownError(None, None, ": curlCode: 7, Couldn't connect to server")] * 3
    with pytest.raises(tf.errors.UnknownError):
        storage.patiently("local", function)
    assert len(faults) == 2


@pytest.mark.usefixtures("quick")
def test_what_lasts_is_an_error_of_the_system(environment: dict[str, str]) -> None:
    for call in (storage.exists, storage.names, storage.read_bytes, storage.size):
        with pytest.raises(FileNotFoundError, match="no such bucket") as missing:
            call("s3://no-such-bucket/x")
        assert missing.value.errno == errno.ENODEV
    Proxy.faults += [403] * 8
    with pytest.raises(PermissionError, match="AWS_ACCESS_KEY_ID"):
        storage.read_bytes(f"s3://{BUCKET}/x")
    Proxy.faults.clear()


@pytest.mark.usefixtures("quick")
def test_http_is_read_only(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_text("whole")
    server = serve(tmp_path)
    address = f"http://127.0.0.1:{server.server_port}"
    assert (storage.size(f"{address}/a.txt"), storage.read_text(f"{address}/a.txt")) == (5, "whole")
    assert not storage.exists(f"{address}/b.txt")
    with pytest.raises(FileNotFoundError, match="No such file"):
        storage.read_bytes(f"{address}/b.txt")
    for call in (storage.make_folder, storage.remove, storage.remove_folder):
        with pytest.raises(OSError, match="nothing can be written over http"):
            call(address)
    with pytest.raises(OSError, match="nothing can be written over http"):
        files.write_atomically(f"{address}/c.txt", "")
    server.shutdown()


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (tf.errors.UnknownError(None, None, "{{function_node x}} : curlCode: 7, Couldn't connect to server"), True),
        (tf.errors.UnknownError(None, None, ": curlCode: 6, Couldn't resolve host name"), False),
        (tf.errors.InternalError(None, None, "Unable to perform (7): Failed to connect"), True),
        (tf.errors.InternalError(None, None, "SlowDown: Please reduce your request rate."), True),
        (tf.errors.InternalError(None, None, ": No response body."), True),
        (tf.errors.UnavailableError(None, None, "Error executing an HTTP request: HTTP response code 503"), True),
        (tf.errors.PermissionDeniedError(None, None, "AccessDenied"), False),
        (tf.errors.NotFoundError(None, None, "NoSuchBucket"), False),
        (tf.errors.DataLossError(None, None, "corrupted record at 0"), False),
        (ValueError("other"), False),
        (ConnectionResetError(104, "reset"), True),
        (OSError(5, "curlCode: 7, Couldn't connect to server"), False),  # of ours, who have waited already
    ],
)
def test_what_may_pass(error: Exception, passes: bool) -> None:
    assert storage.is_transient(error) is passes


def test_the_whole_line_on_a_bucket(environment: dict[str, str], tmp_path: pathlib.Path) -> None:
    shapes, local = tmp_path / "shapes", tmp_path / "data"
    succeed(environment, "data_prep.moving_shapes", f"--output_dir={shapes}", "--videos_per_class=2", "--num_frames=8")
    size = ["--resolution=16", "--min_frames=4", "--num_workers=1"]
    source = [f"--video_dir={shapes}/videos", f"--split_dir={shapes}/ucfTrainTestlist", *size]
    data, run = f"s3://{BUCKET}/data", f"s3://{BUCKET}/run"
    succeed(environment, "tests.quickly", "data_prep.ucf101", *source, f"--output_dir={local}")
    succeed(environment, "tests.quickly", "data_prep.ucf101", *source, f"--output_dir={data}")
    assert storage.names(data) == sorted(os.listdir(local))
    for name in storage.names(data):
        assert storage.read_bytes(f"{data}/{name}") == (local / name).read_bytes()
    assert "no faults" in succeed(environment, "data_prep.verify", f"--data_dir={data}")
    other = fork_command("data_prep.ucf101", *source, f"--output_dir={data}", "--jpeg_quality=50", env=environment)
    assert (other.returncode, "--jpeg_quality=92 (now 50)" in other.stderr) == (1, True)

    server = serve(local)
    over_http = f"http://127.0.0.1:{server.server_port}"
    assert "no faults" in succeed(environment, "data_prep.verify", f"--data_dir={over_http}")
    train = ["tests.quickly", "tganv2_tf.train", *TINY_FLAGS, f"--model_dir={run}", "--global_batch_size=4"]
    train += ["--log_every_steps=1", "--preview_every_steps=2", "--num_previews=2", "--checkpoint_every_steps=1"]
    succeed(environment, *train, f"--data_dir={data}", "--train_steps=1")
    Proxy.faults += [503] * 7
    said = succeed(environment, *train, f"--data_dir={over_http}", "--train_steps=2", stderr=True)
    assert "trying again in 1 s" in said
    assert "Going on from step 1." in said
    server.shutdown()
    assert "ckpt-2.index" in storage.names(f"{run}/checkpoints")
    steps = set()
    for name in storage.names(f"{run}/events"):
        for event in tf.compat.v1.train.summary_iterator(f"{run}/events/{name}"):
            steps.add(event.step)
    assert {1, 2} <= steps

    saved = f"s3://{BUCKET}/saved"
    exported = succeed(environment, "tganv2_tf.export", f"--model_dir={run}", f"--output_dir={saved}")
    assert f"{saved}/1" in exported
    videos = f"s3://{BUCKET}/out/videos.npz"
    for where in (f"--model_dir={run}", f"--saved_model={saved}/1"):
        succeed(environment, "tganv2_tf.generate", where, "--seeds=0", f"--output={videos}")
        assert storage.read_bytes(videos)[:2] == b"PK"
        storage.remove(videos)


@pytest.mark.usefixtures("quick")
def test_a_manifest_that_is_not_there(environment: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"no manifest\.json in it"):
        Manifest.load(f"s3://{BUCKET}/nothing")
