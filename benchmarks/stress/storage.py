"""Stops, slows and breaks an object store while commands use it, and checks their results.

python -m benchmarks.stress.storage --work_dir=/tmp/storage
python -m benchmarks.stress.storage --work_dir=/tmp/storage --faults=stopped --seconds=5

An S3-compatible server (moto's) runs on this machine. The commands reach it through a proxy, which injects the faults:
for some time it refuses connections, answers 503, does not answer, takes two seconds per answer, or truncates files.
Shards are prepared into a bucket; tiny networks are trained from there into another folder of it and exported. Shards
and last checkpoint must be bit-identical to those made undisturbed on the local disk. Permanent faults follow, which
must end the command with one line. The exit status is 1 if one of these checks fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging as std_logging
import os
import pathlib
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from absl import logging

from benchmarks.stress.crash import differing
from tganv2_tf import cli
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require

BUCKET = "s3://bench"
TINY = shlex.split(
    "--resolution=16 --num_frames=4 --z_dim=8 --frame_strides=2 --batch_strides=2 --lstm_channels=8 "
    "--up_channels=8,8,8,8 --discriminator_channels=8,8 --global_batch_size=4 --shuffle_buffer=20 --log_every_steps=10 "
    "--num_previews=2 --preview_every_steps=50 --checkpoint_every_steps=10 --train_steps=200 --deterministic"
)
LAST = "ckpt-200.index"
# Behaviour of the proxy during a fault.
FAULTS = {
    "stopped": "refuses connections",
    "503": "answers 503",
    "silent": "does not answer",
    "slow": "answers after 2 s",
    "broken": "truncates answers",
}
COMMAND_TIMEOUT = 600.0  # seconds for a command
MAX_FAILURE_SECONDS = 300.0  # seconds in which a command must give up


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    work_dir: str = option("new or empty folder for data and runs")
    faults: str = option("comma-separated faults", ",".join(FAULTS))
    seconds: float = option("duration of each fault in seconds", 20.0)

    def __post_init__(self) -> None:
        for fault in self.faults.split(","):
            require(fault in FAULTS, "faults", fault, ", ".join(FAULTS))
        require(self.seconds > 0, "seconds", self.seconds, "a number above 0")


class Proxy:
    """Forwards connections to a server of this machine, as far as its fault allows.

    Attributes:
      port: Port on which it listens.
      affected: Number of connections that met a fault.
    """

    def __init__(self, server_port: int) -> None:
        self.server_port, self.port, self.affected = server_port, 0, 0
        self._fault = ""
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._do(self._listen())

    def set_fault(self, fault: str) -> None:
        """Starts one of `FAULTS` or `denied`, or ends the fault if the name is empty."""
        self._do(self._set_fault(fault))

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _set_fault(self, fault: str) -> None:
        if self._fault == "stopped":
            await self._listen()
        self._fault = fault
        if fault == "stopped":
            self._server.close()
        if fault not in ("slow", "broken"):
            self.affected += bool(fault) * len(self._writers)
            for writer in self._writers:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.affected += self._fault not in ("", "slow", "broken")  # for these two, answers are counted instead
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if self._fault in ("503", "denied"):
                await self._refuse(reader, writer)
            else:
                from_server, to_server = await asyncio.open_connection("127.0.0.1", self.server_port)
                await asyncio.gather(self._pass(reader, to_server), self._pass(from_server, writer, answers=True))
        self._writers.discard(writer)
        writer.close()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if length:
            with contextlib.suppress(asyncio.TimeoutError):  # clients that wait for `100 Continue` send no body
                await asyncio.wait_for(reader.readexactly(int(length[1])), 0.5)
        status = b"503 Slow Down" if self._fault == "503" else b"403 Forbidden"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool = False) -> None:
        try:
            while data := await reader.read(1 << 16):
                if answers and self._fault == "slow":
                    self.affected += 1
                    await asyncio.sleep(2)
                if answers and self._fault == "silent":
                    await asyncio.sleep(COMMAND_TIMEOUT)
                breaks = answers and self._fault == "broken"
                self.affected += breaks
                writer.write(data[: len(data) // 2] if breaks else data)
                await writer.drain()
                if breaks:
                    return
        finally:
            writer.close()


@dataclasses.dataclass
class CommandResult:
    """Result of a command."""

    status: int
    said: str
    seconds: float

    @property
    def is_one_line_error(self) -> bool:
        """Whether it failed with one line of its own, without output of TensorFlow or Python."""
        return self.status == 1 and "Traceback" not in self.said and bool(re.match(r"\w+: .", self.last_line))

    @property
    def last_line(self) -> str:
        return (self.said.strip().splitlines() or [""])[-1]


class Bench:
    """The server, its proxy, and commands that use them."""

    def __init__(self, folder: pathlib.Path) -> None:
        import boto3
        from moto.server import ThreadedMotoServer

        os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        std_logging.getLogger("werkzeug").setLevel(std_logging.ERROR)  # it logs a line per request
        self.folder = folder
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        host, port = self.server.get_host_and_port()
        self.proxy = Proxy(port)
        os.environ["S3_ENDPOINT"] = f"http://127.0.0.1:{self.proxy.port}"
        self.client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        self.client.create_bucket(Bucket=BUCKET.rpartition("/")[2])

    def keys(self, folder: str) -> list[str]:
        """Returns the keys in a folder of the bucket, directly from the server."""
        prefix = folder[len(BUCKET) + 1 :]
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET.rpartition("/")[2], Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def fetch(self, address: str, folder: pathlib.Path) -> dict[str, bytes]:
        """Copies a folder of the bucket; returns its files by name."""
        folder.mkdir(parents=True)
        for key in self.keys(address):
            self.client.download_file(BUCKET.rpartition("/")[2], key, str(folder / key.rpartition("/")[2]))
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    @contextlib.contextmanager
    def fault(self, kind: str, folder: str, sign: str, seconds: float) -> Iterator[None]:
        """Injects the fault once in the block, when the name of a file in a folder of the bucket matches `sign`."""
        ended = threading.Event()

        def do() -> None:
            while not any(re.search(sign, key) for key in self.keys(folder)) and not ended.wait(0.02):
                pass
            if not ended.is_set():
                self.proxy.set_fault(kind)
                ended.wait(seconds)
                self.proxy.set_fault("")

        thread = threading.Thread(target=do)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def command(self, *arguments: str, **environment: str) -> CommandResult:
        """Runs a command to its end."""
        begun = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-m", *arguments],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            return CommandResult(-1, f"not finished after {COMMAND_TIMEOUT:g} s", COMMAND_TIMEOUT)
        return CommandResult(done.returncode, done.stderr, time.monotonic() - begun)

    def run_or_raise(self, *arguments: str) -> None:
        """Runs a command undisturbed. Raises UserError if it fails."""
        ended = self.command(*arguments)
        if ended.status:
            raise UserError(f"{arguments[0]}: {ended.last_line}")


class Table:
    """The lines of the report, and the number of failures."""

    def __init__(self) -> None:
        self.failures = 0
        print(f"{'command':<18}{'fault':<30}{'seconds':>8}{'affected':>9}  result")

    def add(self, command: str, fault: str, seconds: float, affected: int | str, good: bool, what: str) -> None:
        self.failures += not good
        print(f"{command:<18}{fault:<30}{seconds:>8.1f}{affected:>9}  {'' if good else 'FAILED: '}{what}", flush=True)

    def add_end(self, command: str, fault: str, ended: CommandResult) -> None:
        """Adds a command that had to end with one line, and soon."""
        good = ended.is_one_line_error and ended.seconds < MAX_FAILURE_SECONDS
        self.add(command, fault, ended.seconds, "", good, f"status {ended.status}, {ended.last_line}")


# SMALL quickly makes one shard, LARGE makes many.
SMALL, LARGE = ["--resolution=16"], ["--resolution=96", "--encoding=png", "--shard_mib=1", "--num_workers=1"]


def preparation(folder: pathlib.Path, output: str, size: list[str]) -> list[str]:
    """Returns the command that makes shards of the synthetic videos."""
    lists = [f"--video_dir={folder}/shapes/videos", f"--split_dir={folder}/shapes/ucfTrainTestlist", "--split=all"]
    return ["data_prep.ucf101", *lists, *size, f"--output_dir={output}"]


def check_temporary_faults(bench: Bench, fault: str, seconds: float, table: Table) -> None:
    """Injects a temporary fault into a preparation, a training run and an export."""
    folder = bench.folder
    large, run, saved = (f"{BUCKET}/{kind}-{fault}" for kind in ("large", "run", "saved"))

    def shards_differ() -> str:
        local = {path.name: path.read_bytes() for path in (folder / "large").iterdir()}
        return "" if bench.fetch(large, folder / f"large-{fault}") == local else "the shards differ"

    def weights_differ() -> str:
        bench.fetch(f"{run}/checkpoints", folder / f"run-{fault}")
        different = differing(folder / "run" / "checkpoints" / LAST, folder / f"run-{fault}" / LAST)
        return f"{len(different)} tensors differ, {different[0]}" if different else ""

    def nothing_exported() -> str:
        return "" if any("saved_model.pb" in key for key in bench.keys(saved)) else "no SavedModel was written"

    train = ["tganv2_tf.train", *TINY, f"--data_dir={BUCKET}/small", f"--model_dir={run}"]
    export = ["tganv2_tf.export", f"--model_dir={run}", f"--output_dir={saved}"]
    work = [
        ("data_prep.ucf101", preparation(folder, large, LARGE), large, r"\.tfrecord", shards_differ),
        ("train", train, run, r"ckpt-[3-9]0\.index", weights_differ),
        ("export", export, BUCKET, "", nothing_exported),  # immediately
    ]
    for name, arguments, where, sign, wrong in work:
        affected = bench.proxy.affected
        with bench.fault(fault, where, sign, seconds):
            ended = bench.command(*arguments)
        affected = bench.proxy.affected - affected
        problem = ended.last_line if ended.status else wrong()
        problem = problem or ("" if affected or fault == "stopped" else "no connection was affected")
        tries = len(re.findall("retrying in|Resuming from the newest", ended.said))
        good = f"same result as on the local disk, after {tries} retries"
        table.add(name, f"{FAULTS[fault]}, {seconds:g} s", ended.seconds, affected or "-", not problem, problem or good)


def check_permanent_faults(bench: Bench, table: Table) -> None:
    """Injects permanent faults, for which each command must end with one line."""
    data, no_server = f"--data_dir={BUCKET}/data-none", "http://127.0.0.1:9"  # the port of `discard`: nothing listens
    train = ["tganv2_tf.train", *TINY, f"--model_dir={bench.folder}/run2"]
    elsewhere = ["tganv2_tf.train", *TINY, f"--data_dir={bench.folder}/small", "--model_dir=s3://none/run"]
    cases: list[tuple[str, str, list[str], dict[str, str], str]] = [
        ("train", "no such data set", [*train, data], {}, ""),
        ("train", "no such bucket to read", [*train, "--data_dir=s3://none/data"], {}, ""),
        ("train", "no such bucket to write", elsewhere, {}, ""),
        ("train", "wrong key (403)", [*train, data], {}, "denied"),
        ("train", "no server", [*train, data], {"S3_ENDPOINT": no_server}, ""),
        ("train", "no such host", [*train, data], {"S3_ENDPOINT": "http://no-such-host.invalid"}, ""),
        ("train", "no server (http)", [*train, f"--data_dir={no_server}/data"], {}, ""),
        ("generate", "no such bucket", ["tganv2_tf.generate", "--model_dir=s3://none/run", "--output=x.gif"], {}, ""),
        ("data_prep.ucf101", "no such bucket", preparation(bench.folder, "s3://none/data", SMALL), {}, ""),
        ("data_prep.verify", "no such data set", ["data_prep.verify", data], {}, ""),
    ]
    for name, what, arguments, environment, fault in cases:
        bench.proxy.set_fault(fault)
        ended = bench.command(*arguments, **environment)
        bench.proxy.set_fault("")
        table.add_end(name, what, ended)
    train = ["tganv2_tf.train", *TINY, f"--data_dir={BUCKET}/small", f"--model_dir={BUCKET}/gone"]
    with bench.fault("stopped", f"{BUCKET}/gone", "ckpt-30", COMMAND_TIMEOUT):
        table.add_end("train", "server stops during training", bench.command(*train))


def main(command: Command) -> int:
    folder = pathlib.Path(command.work_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"--work_dir={folder} is not empty; name a new folder")
    bench = Bench(folder)
    logging.info("Preparing and training on the local disk for comparison.")
    bench.run_or_raise("data_prep.moving_shapes", f"--output_dir={folder}/shapes", "--videos_per_class=4")
    for size, output in ((LARGE, f"{folder}/large"), (SMALL, f"{folder}/small"), (SMALL, f"{BUCKET}/small")):
        bench.run_or_raise(*preparation(folder, output, size))
    bench.run_or_raise("tganv2_tf.train", *TINY, f"--data_dir={folder}/small", f"--model_dir={folder}/run")
    table = Table()
    for fault in command.faults.split(","):
        check_temporary_faults(bench, fault, command.seconds, table)
    check_permanent_faults(bench, table)
    bench.server.stop()
    passed = "all temporary faults were survived, all permanent ones reported"
    print(f"{table.failures} checks failed" if table.failures else passed)
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.stress.storage", __doc__ or ""))
