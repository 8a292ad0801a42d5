"""Files by address: a real S3-compatible server on loopback, plain http, and a server that fails on demand."""

from __future__ import annotations

import concurrent.futures
import errno
import functools
import http.client
import http.server
import os
import pathlib
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
import tensorflow as tf
from botocore import exceptions
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from tests import buckets
from tests.buckets import Proxy
from tests.conftest import ROOT, TINY_FLAGS
from tests.forking import fork_command
from tests.test_commands import SMALL
from tganv2_tf import storage
from tganv2_tf.data.local_copies import LocalShardCache
from tganv2_tf.data.manifest import Manifest
from tganv2_tf.errors import UserError
from tganv2_tf.events import EventWriter
from tganv2_tf.storage import files, s3, web

BUCKET = "bucket"


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder, like any web server."""

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """The environment of commands with a bucket, also set in this process."""
    with buckets.bucket(BUCKET):
        yield {**os.environ}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.retries, "BACK_OFF", (0.01,) * 4)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *context: 0.0)
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
    storage.remove(f"{folder}/a/b.txt")
    assert (storage.exists(f"s3://{BUCKET}"), storage.is_folder(f"s3://{BUCKET}/")) == (True, True)
    answer = s3.CLIENTS.get().head_object(Bucket=BUCKET, Key="files/c.txt")
    assert answer["ContentType"] == "application/octet-stream"
    assert storage.names(f"{folder}/") == ["c.txt"]
    storage.remove_folder(folder)
    assert not storage.exists(f"{folder}/c.txt")
    with pytest.raises(FileNotFoundError, match="No such file"):
        storage.read_bytes(f"{folder}/c.txt")
    with pytest.raises(ZeroDivisionError), files.atomic_file(f"{folder}/d.txt") as path:
        path.write_text(f"half {1 / 0}")
    assert storage.names(folder) == []


def test_folders_of_a_bucket(environment: dict[str, str], tmp_path: pathlib.Path) -> None:
    """More files than a listing's page has, a folder marker of other programs, and a key that leaves the folder."""
    client, folder = s3.CLIENTS.get(), f"s3://{BUCKET}/many"
    objects = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # of the server, which is in this process: requests take longer
    for number in range(1001):
        objects.put_object(BUCKET, f"many/{number:04d}", b"x")
    client.put_object(Bucket=BUCKET, Key="many/")
    client.put_object(Bucket=BUCKET, Key="many/inside/a")
    client.put_object(Bucket=BUCKET, Key="many-others")
    assert storage.names(folder) == [*(f"{i:04d}" for i in range(1001)), "inside"]
    with storage.folder_on_disk(folder + "/inside") as local:
        assert os.listdir(local) == ["a"]
    storage.remove_folder(folder)
    assert (storage.names(folder), storage.exists(f"{folder}-others")) == ([], True)
    client.put_object(Bucket=BUCKET, Key="climbs/../../x")
    with pytest.raises(OSError, match="a key with"), storage.folder_on_disk(f"s3://{BUCKET}/climbs"):
        pass


def test_a_folder_is_copied_with_one_file_last(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.index", "b.data", "inside/c"):
        files.write_atomically(tmp_path / name, name)
    uploaded = []
    monkeypatch.setattr(s3, "upload", lambda source, path: uploaded.append(path))
    storage.copy_folder(tmp_path, "s3://bucket/x", "a.index")
    assert uploaded == ["s3://bucket/x/b.data", "s3://bucket/x/inside/c", "s3://bucket/x/a.index"]


@pytest.mark.usefixtures("quick")
def test_a_server_that_fails_for_a_while_is_waited_for(environment: dict[str, str]) -> None:
    """Three attempts are boto3's own, so more than three faults reach our retries."""
    path = f"s3://{BUCKET}/waited/a.txt"
    files.write_atomically(path, "whole")
    Proxy.faults += [503] * 7
    assert storage.read_text(path) == "whole"
    Proxy.faults += [503] * 8
    assert storage.exists(path)
    Proxy.faults += [503] * 4
    assert storage.names(f"s3://{BUCKET}/waited") == ["a.txt"]
    Proxy.faults += [503] * 4
    files.write_atomically(path, "other")
    assert storage.read_text(path) == "other"
    assert len(Proxy.answered) == 23
    Proxy.faults += [503] * 15  # boto3's three attempts, and four times three of ours
    with pytest.raises(storage.ServerError, match="Not you"):
        storage.read_text(path)
    assert not Proxy.faults


@pytest.mark.usefixtures("quick")
def test_what_did_not_come_whole_is_fetched_again(environment: dict[str, str], tmp_path: pathlib.Path) -> None:
    path = f"s3://{BUCKET}/part/a.txt"
    files.write_atomically(path, "whole" * 1000)
    files.write_atomically(f"{path}.empty", "")
    Proxy.faults += [buckets.BROKEN] * 3
    assert storage.read_text(path) == "whole" * 1000
    Proxy.faults += [buckets.BROKEN] * 3
    storage.copy(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "whole" * 1000
    assert Proxy.answered == [buckets.BROKEN] * 6
    Proxy.faults += [buckets.BROKEN] * 5
    with pytest.raises(storage.ServerError):
        storage.copy(path, tmp_path / "never")
    assert os.listdir(tmp_path) == ["copy"]
    assert storage.read_bytes(f"{path}.empty") == b""


def test_a_client_is_shared_by_threads_and_not_with_forks(environment: dict[str, str]) -> None:
    s3.CLIENTS.forget()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = {id(client) for client in pool.map(lambda _: s3.CLIENTS.get(), range(64))}
    assert len(clients) == 1
    files.write_atomically(f"s3://{BUCKET}/forked", "whole")
    with s3.CLIENTS._lock:  # as if another thread of this process held it
        child = os.fork()
        if not child:
            os._exit(0 if s3.CLIENTS._client is None and storage.read_text(f"s3://{BUCKET}/forked") == "whole" else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_client_is_made_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*s3.ENDPOINTS, *s3.DEFAULTS, "S3_CA_FILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    client = s3._new_client()
    config = client.meta.config
    assert client.meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"
    assert (config.connect_timeout, config.read_timeout, config.s3) == (5, 30, None)
    assert config.retries == {"mode": "standard", "total_max_attempts": 3}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("S3_REQUEST_TIMEOUT_MSEC", "1500")
    client = s3._new_client()
    assert client.meta.endpoint_url == "http://127.0.0.1:9"
    assert (client.meta.config.read_timeout, client.meta.config.s3) == (1.5, {"addressing_style": "path"})
    monkeypatch.setenv("S3_ENDPOINT", "https://127.0.0.1:9")
    assert s3._new_client().meta.endpoint_url == "https://127.0.0.1:9"
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "many")
    with pytest.raises(OSError, match=r"AWS_MAX_ATTEMPTS: .*'many'"):
        s3._new_client()


def test_boto3_is_imported_for_addresses_of_buckets_only(tmp_path: pathlib.Path) -> None:
    body = f"""import sys; from tganv2_tf import storage
storage.exists({str(tmp_path)!r}); storage.names("http://127.0.0.1:9"); assert "boto3" not in sys.modules
try: storage.exists("gs://bucket/x")
except OSError as error: assert "valid: s3://BUCKET/KEY" in str(error)
assert "tensorflow" not in sys.modules and "tensorflow_io" not in sys.modules"""
    subprocess.run([sys.executable, "-c", body], cwd=ROOT, check=True)


def test_copies_of_shards_are_kept_while_they_are_used(environment: dict[str, str]) -> None:
    for name in "abc":
        files.write_atomically(f"s3://{BUCKET}/copies/{name}", name)
    copies = LocalShardCache(2)
    first, second = (copies.of(f"s3://{BUCKET}/copies/{name}") for name in "ab")
    with open(second) as still_read:
        assert copies.of(f"s3://{BUCKET}/copies/a") == first
        copies.of(f"s3://{BUCKET}/copies/c")
        assert (os.path.exists(first), os.path.exists(second)) == (True, False)  # b was the least recently used
        assert still_read.read() == "b"
    with pytest.raises(FileNotFoundError):
        copies.of(f"s3://{BUCKET}/copies/d")


@pytest.mark.usefixtures("quick")
def test_events_in_a_bucket(environment: dict[str, str], tmp_path: pathlib.Path) -> None:
    """Files of an earlier start and flushed data remain whatever the server does, and training continues."""
    run = f"s3://{BUCKET}/events-run"
    for step in (1, 2):
        with EventWriter(run) as writer:
            for tag, faults in (("flushed", 0), ("disturbed", 4), ("later", 0)):
                Proxy.faults += [503] * faults
                with writer.as_default(step):
                    tf.summary.scalar(tag, step)
                writer.flush()
                assert not Proxy.faults
        assert not os.path.exists(writer.folder)
        assert len(storage.names(f"{run}/events")) == step
    tags = ("flushed", "disturbed", "later")
    assert tags_of(run, tmp_path) == {(step, tag) for step in (1, 2) for tag in tags}

    def write(error: type[Exception] | None) -> None:
        with EventWriter(run) as writer, writer.as_default(3):
            tf.summary.scalar("x", 3)
            Proxy.faults[:] = [503] * 100
            if error:
                raise error

    with pytest.raises(storage.ServerError):
        write(None)
    Proxy.faults.clear()
    with pytest.raises(KeyError):  # not hidden by the server's error
        write(KeyError)
    Proxy.faults.clear()


@pytest.mark.usefixtures("quick")
def test_a_server_that_is_away_is_known_behind_a_data_set(environment: dict[str, str]) -> None:
    def read(path: bytes) -> bytes:
        return storage.read_bytes(path.decode())

    data = tf.data.Dataset.from_tensors(f"s3://{BUCKET}/x").map(lambda path: tf.numpy_function(read, [path], tf.string))
    with pytest.raises(tf.errors.OpError) as missing:
        list(data)
    Proxy.faults += [503] * 15
    with pytest.raises(tf.errors.OpError) as away:
        list(data)
    assert [storage.is_transient(error.value) for error in (missing, away)] == [False, True]


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
        with pytest.raises(OSError, match="http is read-only"):
            call(address)
    with pytest.raises(OSError, match="http is read-only"):
        files.write_atomically(f"{address}/c.txt", "")
    server.shutdown()


def answer(status: int, code: str) -> exceptions.ClientError:
    return exceptions.ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"
    )


def no_connection(reason: str) -> exceptions.EndpointConnectionError:
    return exceptions.EndpointConnectionError(endpoint_url="http://x", error=reason)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answer(503, "SlowDown"), storage.ServerError),
        (answer(500, "InternalError"), storage.ServerError),
        (answer(429, "TooManyRequests"), storage.ServerError),
        (answer(400, "RequestTimeout"), storage.ServerError),
        (answer(400, "InvalidRequest"), OSError),
        (answer(403, "AccessDenied"), PermissionError),
        (answer(401, "Unauthorized"), PermissionError),
        (answer(404, "NoSuchKey"), FileNotFoundError),
        (answer(404, "NoSuchBucket"), FileNotFoundError),
        (no_connection("[Errno 111] Connection refused"), storage.ServerError),
        (no_connection("[Errno -2] Name or service not known"), OSError),
        (exceptions.ReadTimeoutError(endpoint_url="http://x"), storage.ServerError),
        (exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2), storage.ServerError),
        (exceptions.ResponseStreamingError(error="reset"), storage.ServerError),
        (exceptions.SSLError(endpoint_url="https://x", error="CERTIFICATE_VERIFY_FAILED"), OSError),
        (exceptions.SSLError(endpoint_url="https://x", error="UNEXPECTED_EOF_WHILE_READING"), storage.ServerError),
        (exceptions.NoCredentialsError(), PermissionError),
        (ConnectionResetError(104, "reset"), storage.ServerError),
        (OSError(28, "No space left on device"), None),
        (KeyError("a fault of the program"), None),
    ],
)
def test_errors_of_boto3(error: Exception, kind: type[OSError] | None) -> None:
    found = s3.as_os_error(error, "s3://bucket/x")
    assert type(found) is (kind or type(None))
    if found is not None and kind is not None:
        missing_bucket = "NoSuchBucket" in str(error)
        assert found.filename == ("s3://bucket" if missing_bucket else "s3://bucket/x")
        assert (found.errno == errno.ENODEV) is missing_bucket


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (urllib.error.HTTPError("http://x", 503, "Slow Down", http.client.HTTPMessage(), None), storage.ServerError),
        (urllib.error.HTTPError("http://x", 404, "Not Found", http.client.HTTPMessage(), None), FileNotFoundError),
        (urllib.error.HTTPError("http://x", 403, "Forbidden", http.client.HTTPMessage(), None), PermissionError),
        (urllib.error.HTTPError("http://x", 400, "Bad Request", http.client.HTTPMessage(), None), OSError),
        (urllib.error.URLError(ConnectionRefusedError(111, "refused")), storage.ServerError),
        (urllib.error.URLError(OSError(-2, "Name or service not known")), OSError),
        (http.client.IncompleteRead(b""), storage.ServerError),
        (ValueError("other"), None),
    ],
    ids=repr,  # in Python 3.9, pytest cannot name an HTTPError without a file
)
def test_errors_of_urllib(error: Exception, kind: type[OSError] | None) -> None:
    assert type(web.as_os_error(error, "http://x")) is (kind or type(None))


def tags_of(run: str, folder: pathlib.Path) -> set[tuple[int, str]]:
    """Returns steps and tags of a run's scalars."""
    found = set()
    for name in storage.names(f"{run}/events"):
        if ".tfevents." in name:
            storage.copy(f"{run}/events/{name}", folder / name)
            events = tf.compat.v1.train.summary_iterator(str(folder / name))
            found |= {(event.step, value.tag) for event in events for value in event.summary.value}
    return found


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
    train = ["tests.quickly", "tganv2_tf.train", *TINY_FLAGS, *SMALL, f"--model_dir={run}", "--global_batch_size=4"]
    train += ["--log_every_steps=1", "--checkpoint_every_steps=1"]
    succeed(environment, *train, f"--data_dir={data}", "--train_steps=1")
    Proxy.faults += [503] * 7
    train += [f"--data_dir={over_http}", "--train_steps=2", "--profile_steps=2,2"]
    said = succeed(environment, *train, stderr=True)
    assert "retrying in 1 s" in said
    assert "credentials" not in said, "what botocore logs"
    assert "Resuming from step 1." in said
    server.shutdown()
    assert "ckpt-2.index" in storage.names(f"{run}/checkpoints")
    assert {(step, "train/generator_loss") for step in (1, 2)} <= tags_of(run, tmp_path / "events")
    assert len(storage.names(f"{run}/events/plugins/profile")) == 1, "that of step 2"
    assert len([name for name in storage.names(f"{run}/events") if name.endswith(".hparams")]) == 1

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
