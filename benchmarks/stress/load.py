"""Load test with many parallel clients: the explorer over HTTP, and a SavedModel in one process.

python -m benchmarks.stress.load
python -m benchmarks.stress.load --clients=8 --seconds=30 --model_dir=runs/own

First, --clients clients on this machine send requests to the real explorer (`python -m tganv2_tf.explore`), as its page
does, and wait for the answers. Then the export of the run is called from as many threads. Each part takes --seconds.
Every answer is compared with the answer to the same request without load. Some clients disconnect before the answer,
and some requests exceed a limit and must be rejected with a line that says so.

The exit status is 1 if a request failed, an answer differed, a request over a limit was accepted, or memory, file
handles or temporary files grew. Memory grows if its least-squares slope over the last two thirds of the time would add
a twentieth of it, and more than 20 MB, in that time. Linux only; needs Gradio:
requirements-explore.txt
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import http.client
import itertools
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Callable

import numpy as np

from benchmarks.stress.usage import WARM_UP, Series, folder_size, memory_growth, slope, watch
from tganv2_tf import cli
from tganv2_tf.errors import UserError
from tganv2_tf.options import option, require

HOST = "127.0.0.1"
EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "demo_generator"
TIMEOUT = 300  # seconds that a client waits
ABSURD = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Command:
    """Benchmark options."""

    model_dir: str = option("folder of the run with the generator", str(EXAMPLE))
    clients: int = option("number of parallel clients", 50)
    seconds: float = option("duration of each of the two parts in seconds", 300.0)

    def __post_init__(self) -> None:
        require(self.clients >= 1, "clients", self.clients, "a whole number of at least 1")
        require(self.seconds > 0, "seconds", self.seconds, "a number above 0")


@dataclasses.dataclass(frozen=True)
class Case:
    """A request.

    Attributes:
      name: Name in the table.
      request: Data to send.
      refusal: Text of the expected rejection; empty if the request must be answered.
      stays: Whether the client waits for the answer.
    """

    name: str
    request: Any
    refusal: str = ""
    stays: bool = True


class RequestError(Exception):
    """Raised for a missing or wrong answer."""


@dataclasses.dataclass
class Tally:
    """Thread-safe outcomes of the requests.

    Attributes:
      seconds: Duration of each answered request.
      counts: Number of requests by name of the case.
      failures: Number of failures by description.
    """

    seconds: list[float] = dataclasses.field(default_factory=list)
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    failures: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


# ---- the explorer


class Page:
    """A browser's connection to the explorer: a request joins the queue, the answer is a stream of events."""

    def __init__(self, port: int) -> None:
        self._port = port
        config = json.loads(self.send("GET", "/config")[1])
        # Functions are identified by their number of inputs: the gallery has 6, interpolation has 10.
        self._functions = {len(each["inputs"]): each["id"] for each in config["dependencies"]}
        self.num_levels, self.num_classes = 1, 0
        for component in config["components"]:
            properties = component["props"]
            if properties.get("label") == "Level":
                self.num_levels = properties["maximum"]
            elif properties.get("label") == "Class":
                self.num_classes = len(properties["choices"]) - 1

    def send(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Returns status and body of one answer."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=TIMEOUT)
        try:
            connection.request(method, path, body or None, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def call(self, values: Sequence[Any], stays: bool = True) -> str:
        """Returns the HTML from the function with as many inputs; "" if the client disconnects at once.

        Raises:
          RequestError: The request was rejected or failed; the message is what the page would show.
        """
        session = uuid.uuid4().hex
        request = {"data": values, "fn_index": self._functions[len(values)], "session_hash": session}
        status, answer = self.send("POST", "/gradio_api/queue/join", json.dumps(request).encode())
        if status != 200:
            raise RequestError(f"{status}: {answer.decode()}")
        if not stays:
            return ""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=TIMEOUT)
        try:
            connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
            for line in connection.getresponse():
                event = json.loads(line[6:]) if line.startswith(b"data: ") else {}
                if event.get("msg") == "process_completed":
                    if event["success"]:
                        return event["output"]["data"][0]
                    raise RequestError(str(event["output"].get("error")))
        finally:
            connection.close()
        raise RequestError("the stream ended without an answer")


def page_cases(page: Page) -> list[Case]:
    """Returns requests for the explorer."""
    settings = (1.0, 16, page.num_levels, -1, 10)
    cases = [
        Case("gallery", ("0-3", *settings)),
        Case("gallery", ("7", *settings)),
        Case("gallery", ("5,9", 0.7, 8, 1, 0 if page.num_classes else -1, 10)),
        Case("between", ("1", "2", 2, "spherical", "side by side", *settings)),
        Case("walk", ("3", "4", 1, "linear", "one moving video", *settings)),
        Case("disconnects", ("11", *settings), stays=False),
    ]
    refused: list[tuple[Any, str]] = [
        (("0-99", *settings), "valid: up to 64"),
        (("0-9999999999", *settings), "too many"),
        (("0", 1.0, 10**9, page.num_levels, -1, 10), "valid: a whole number from 1 to"),
        (("0-63", 1.0, 128, page.num_levels, -1, 10), "valid: up to 256 MB"),
        (("0", 1.0, 16, 99, -1, 10), "Level: "),
        (("0", "much", 16, page.num_levels, -1, 10), "Truncation: "),
        (("0", 1.0, 16, page.num_levels, 10**6, 10), "Class: "),
        (("1", "2", 10**6, "linear", "one moving video", *settings), "Steps: "),
        (("1," * 100_000, *settings), "413: "),
    ]
    return cases + [Case("over a limit", values, refusal) for values, refusal in refused]


def load_explorer(command: Command, folder: pathlib.Path) -> tuple[Tally, Series]:
    """Runs clients over HTTP on this machine."""
    temporary = folder / "temporary"
    temporary.mkdir()
    arguments = [sys.executable, "-m", "tganv2_tf.explore", f"--model_dir={command.model_dir}", "--port=0"]
    log = folder / "explorer.log"
    with open(log, "w") as file:
        environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(arguments, stdout=file, stderr=file, env=environment)
    try:
        port = None
        while port is None:
            if process.poll() is not None:
                raise UserError(f"the explorer exited: {(log.read_text().splitlines() or ['no output'])[-1]}")
            time.sleep(0.2)
            port = re.search(rf"http://{HOST}:(\d+)", log.read_text())
        page = Page(int(port[1]))
        cases = page_cases(page)
        senders = [lambda case=case: page.call(case.request, case.stays) for case in cases]
        files = {"temporary files": lambda: folder_size(temporary)["count"]}
        return run(command, process.pid, cases, senders, files)
    finally:
        process.terminate()
        process.wait()


# ---- the SavedModel


def load_saved_model(command: Command, folder: pathlib.Path) -> tuple[Tally, Series]:
    """Calls the SavedModel from threads of this process."""
    export = [
        sys.executable,
        "-m",
        "tganv2_tf.export",
        f"--model_dir={command.model_dir}",
        f"--output_dir={folder}/model",
    ]
    done = subprocess.run(export, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError((done.stderr.splitlines() or ["the export failed"])[-1])
    import tensorflow as tf

    served = tf.saved_model.load(f"{folder}/model/1")
    label = [0] if len(served.class_names.numpy()) else None
    cases = [Case("generate", numbers) for numbers in ((0, 4, 16), (7, 1, 16), (5, 2, 8))]
    refused = ((0, ABSURD, 16), (0, 1, ABSURD), (0, ABSURD, ABSURD))
    cases += [Case("over a limit", numbers, "too many videos or frames: valid: up to") for numbers in refused]

    def generate(seed: int, num_videos: int, num_frames: int) -> np.ndarray:
        given = {} if label is None else {"label": tf.constant(label)}
        numbers = {"num_videos": tf.constant(num_videos), "num_frames": tf.constant(num_frames)}
        try:
            return served.signatures["generate"](seed=tf.constant(seed, tf.int64), **numbers, **given)["videos"].numpy()
        except tf.errors.InvalidArgumentError as error:
            raise RequestError(error.message) from error

    senders = [lambda case=case: generate(*case.request) for case in cases]
    return run(command, os.getpid(), cases, senders, {})


# ---- both


def digest(answer: Any) -> str:
    """Returns a digest of the bytes of an answer."""
    return hashlib.sha256(answer.encode() if isinstance(answer, str) else answer.tobytes()).hexdigest()


def run(
    command: Command,
    pid: int,
    cases: Sequence[Case],
    ask: Sequence[Callable[[], Any]],
    more: dict[str, Callable[[], float]],
) -> tuple[Tally, Series]:
    """Runs all clients in parallel, each sending requests one after another in its own order.

    Args:
      command: Number of clients and duration.
      pid: Process id of the server.
      cases: Requests.
      ask: One function per case that sends it.
      more: Additional measurements.
    """
    # Reference answers, without load.
    alone = [digest(f()) if case.stays and not case.refusal else "" for case, f in zip(cases, ask)]
    tally, lock, end = Tally(), threading.Lock(), time.monotonic() + command.seconds

    def client(number: int) -> None:
        for which in order(number, cases):
            if time.monotonic() > end:
                return
            start, wrong = time.monotonic(), check_answer(cases[which], ask[which], alone[which])
            with lock:
                tally.counts[cases[which].name] += 1
                if wrong:
                    tally.failures[wrong] += 1
                elif alone[which]:
                    tally.seconds.append(time.monotonic() - start)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(command.clients)]
    with watch(pid, more, min(1.0, command.seconds / 30)) as series:
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
    return tally, series


def order(seed: int, cases: Sequence[Case]) -> Iterator[int]:
    """Yields numbers of cases endlessly: a fifth exceeds a limit, and a twentieth disconnects."""
    weights = {"over a limit": 0.2, "disconnects": 0.05}
    names = collections.Counter(case.name for case in cases)
    rest = sum(count for name, count in names.items() if name not in weights)
    shares = [weights.get(case.name, 0.75 * names[case.name] / rest) / names[case.name] for case in cases]
    generator = random.Random(seed)
    return (generator.choices(range(len(cases)), shares)[0] for _ in itertools.repeat(None))


def check_answer(case: Case, ask: Callable[[], Any], expected: str) -> str:
    """Returns what was wrong with the answer, or ""."""
    try:
        answer = ask()
    except RequestError as refusal:
        if case.refusal and case.refusal in str(refusal):
            return ""
        return f"{case.name}: {str(refusal)[:200]}"
    except Exception as error:  # noqa: BLE001 (every exception is counted and shown)
        return f"{case.name}: {type(error).__name__}: {str(error)[:200]}"
    if case.refusal:
        return f"{case.name}: {case.request} was accepted"
    if expected and digest(answer) != expected:
        return f"{case.name}: {case.request}: differs from the answer without load"
    return ""


def violations(tally: Tally, series: Series) -> list[str]:
    """Returns the violated guarantees."""
    broken = [f"{count} x {text}" for text, count in tally.failures.most_common()]
    if not tally.seconds:
        return [*broken, "no request was answered"]
    growth = memory_growth(series["time"], series["rss"])
    if growth:
        broken.append(f"memory grew by {growth / 1e6:.0f} MB")
    for name in ("files", "temporary files"):
        values = series.get(name, [0.0])
        half = len(values) // 2
        first, second = max(values[:half], default=0), max(values[half:])
        if second > 1.5 * first + 10:
            broken.append(f"{name} grew: at most {first:.0f} in the first half of the time, {second:.0f} in the second")
    return broken


def row(name: str, tally: Tally, series: Series) -> str:
    """Returns a row of the table."""
    seconds, rss = tally.seconds or [float("nan")], series["rss"]
    late = [value for at, value in zip(series["time"], rss) if at >= WARM_UP * series["time"][-1]]
    per_minute = 60 * slope(series["time"], rss) / 1e6
    others = tally.counts["over a limit"], tally.counts["disconnects"]
    cells = [
        name,
        f"{len(tally.seconds):,}",
        *(f"{count:,}" for count in others),
        f"{sum(tally.failures.values())}",
        *(f"{np.percentile(seconds, q):.2f}" for q in (50, 99)),
        f"{max(rss) / 1e6:,.0f}",
        f"{late[0] / 1e6:,.0f} to {late[-1] / 1e6:,.0f}",
        f"{per_minute:+.2f}",
        f"{max(series['files']):.0f}",
        f"{max(series.get('temporary files', [0])):.0f}",
        f"{series.get('temporary files', [0])[-1]:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


HEADER = """\
| | answered, same bytes | rejected, over a limit | disconnected | failed | p50 s | p99 s | peak MB | MB after \
warm-up | slope, MB per minute | max handles | max temporary files | at the end |
|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def main(command: Command) -> int:
    broken, lines = [], [HEADER]
    parts = {"explorer, HTTP": load_explorer, "SavedModel, threads": load_saved_model}
    for name, load in parts.items():
        with tempfile.TemporaryDirectory(prefix="tganv2-load-") as folder:
            tally, series = load(command, pathlib.Path(folder))
        lines.append(row(name, tally, series))
        broken += [f"{name}: {text}" for text in violations(tally, series)]
    print(f"{command.clients} clients, {command.seconds:g} s each, {os.cpu_count()} processors\n", *lines, sep="\n")
    print(*broken or ["\nAll guarantees hold."], sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command,), "benchmarks.stress.load", __doc__ or ""))
