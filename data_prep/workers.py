"""Supervised worker processes: if one crashes or hangs, only the item it was processing is lost.

Decoders are C code that reads damaged files, so crashes and endless loops must be handled as ordinary events. A worker
announces each item of its task, so the parent knows which one failed. `concurrent.futures` fails as a whole when a
worker is killed, and `multiprocessing.Pool` waits indefinitely.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tganv2_tf.errors import UserError

Announce = Callable[[Any], None]
ATTEMPTS = 3
OUTSIDE_SECONDS = 600.0  # maximum time outside of items: starting a worker, finishing a shard on slow storage


def num_processors() -> int:
    """Returns the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


class WorkerPool:
    """Worker processes kept alive between calls of `run_supervised`: starting one takes as long as about ten videos.

    A context manager; all workers are killed on exit.
    """

    def __init__(self, num_started: int = 0) -> None:
        """Accepts the number of workers to start at once; others start when there is a task for them."""
        self.workers: list[_Worker] = []
        self._num_started = num_started

    def __enter__(self) -> WorkerPool:
        self.workers += [_Worker() for _ in range(self._num_started)]
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in self.workers:
            worker.kill()


def run_supervised(
    function: Callable[[Any, Announce], Any],
    tasks: Iterable[Any],
    *,
    num_workers: int,
    item_timeout: float,
    on_done: Callable[[Any, Any], None],
    on_lost: Callable[[Any, Any, str], Any],
    on_begin: Callable[[Any, Any], None] = lambda task, item: None,
    pool: WorkerPool | None = None,
) -> None:
    """Runs tasks in worker processes; returns when all are done, or raises with no task running.

    Args:
      function: Called in a worker as function(task, announce). Must be importable from its module (workers are
        spawned). It calls announce(item) at the start of an item and whenever it has made progress with it, and
        announce(None) after the last item.
      tasks: Picklable tasks with hashable items.
      num_workers: Maximum number of processes.
      item_timeout: Maximum time in seconds between the announcement of an item and the next announcement.
      on_done: Called in this process as on_done(task, result).
      on_lost: Called in this process as on_lost(task, item, reason) if an item crashed its worker or timed out. Returns
        the task to run instead, usually the same one without the item. Not called the first time that SIGKILL hits a
        worker at this item: memory may have run out because of another process, so the task is run again.
      on_begin: Called in this process as on_begin(task, item) for every announced item.
      pool: Its idle workers are used first, and it keeps the workers started here. Without a pool, all workers end with
        this call.
    Raises:
      UserError: The function raised a UserError or an OSError, or workers die outside of any item.
      RuntimeError: The function raised another exception; the message is its traceback.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_sigterm_interrupts())
        workers = (pool or stack.enter_context(WorkerPool())).workers
        queue = collections.deque((task, 1) for task in tasks)
        killed: set[Any] = set()
        num_workers = max(1, min(num_workers, len(queue)))
        stack.callback(_stop_busy, workers)
        while queue or any(worker.busy for worker in workers):
            while queue and sum(worker.busy for worker in workers) < num_workers:
                idle = next((worker for worker in workers if not worker.busy), None)
                if idle is None:
                    idle = _Worker()
                    workers.append(idle)
                idle.assign(function, *queue.popleft())
            _wait(workers)
            error: Exception | None = None
            for worker in [worker for worker in workers if worker.busy]:
                error = worker.listen(item_timeout, on_begin, on_done) or error
                reason = worker.failure(item_timeout) if worker.busy else None
                if reason is None:
                    continue
                was_killed = worker.process.exitcode == -signal.SIGKILL  # by another process
                worker.kill()
                workers.remove(worker)
                if worker.item is not None and was_killed and worker.item not in killed:
                    killed.add(worker.item)
                    queue.appendleft((worker.task, worker.attempt))
                elif worker.item is not None:
                    queue.appendleft((on_lost(worker.task, worker.item, reason), worker.attempt))
                elif worker.attempt < ATTEMPTS:
                    queue.appendleft((worker.task, worker.attempt + 1))
                else:
                    error = UserError(f"{reason}, {ATTEMPTS} times, outside of any video; try a smaller --num_workers")
            if error is not None:  # raised after the loop, so that results of other workers are not lost
                raise error


def _stop_busy(workers: list[_Worker]) -> None:
    for worker in [worker for worker in workers if worker.busy]:
        worker.kill()
        workers.remove(worker)


class _Worker:
    """A process and its state as known to the parent."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # fork would copy locks held by threads of OpenCV and TensorFlow
        self.connection, child_connection = context.Pipe()
        self.process = context.Process(target=_serve, args=(child_connection,), daemon=True)
        self.busy, self.attempt, self.deadline = False, 0, 0.0
        self.task: Any = None
        self.item: Any = None
        with _ignored_in_children(signal.SIGINT):
            self.process.start()
        child_connection.close()  # otherwise the pipe would stay open when the worker ends

    def assign(self, function: Callable[[Any, Announce], Any], task: Any, attempt: int) -> None:
        self.busy, self.task, self.attempt, self.item = True, task, attempt, None
        self.deadline = time.monotonic() + OUTSIDE_SECONDS
        with contextlib.suppress(OSError):  # it died while idle; `failure` will report it
            self.connection.send((function, task))

    def listen(
        self, item_timeout: float, on_begin: Callable[[Any, Any], None], on_done: Callable[[Any, Any], None]
    ) -> Exception | None:
        """Processes all pending messages; returns the error that ended its function, if any."""
        for kind, value in self._messages():
            if kind == "begin":
                self.item, limit = value, OUTSIDE_SECONDS if value is None else item_timeout
                self.deadline = time.monotonic() + limit
                if value is not None:
                    on_begin(self.task, value)
                continue
            self.busy, self.item = False, None
            if kind == "done":
                on_done(self.task, value)
            else:
                return UserError(value) if kind == "user_error" else RuntimeError(f"in a worker:\n{value}")
        return None

    def _messages(self) -> Iterator[tuple[str, Any]]:
        try:
            while self.busy and self.connection.poll():
                yield self.connection.recv()
        except (EOFError, OSError):  # it died, perhaps in the middle of a message
            self.process.join()

    def failure(self, item_timeout: float) -> str | None:
        """Returns why to replace this worker, or None. Call after `listen`: it may have finished before it died."""
        code = self.process.exitcode
        if code is not None:
            hint = " (out of memory?)" if code == -signal.SIGKILL else ""
            how = f"was killed by {signal.Signals(-code).name}{hint}" if code < 0 else f"ended with code {code}"
            return f"the worker process {how}"
        if time.monotonic() > self.deadline:
            if self.item is None:
                return f"the worker process did not respond for {OUTSIDE_SECONDS:g} s"
            return f"it took longer than {item_timeout:g} s (--video_timeout)"
        return None

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _wait(workers: list[_Worker]) -> None:
    """Sleeps until a worker sends a message, dies, or exceeds its time limit."""
    busy = [worker for worker in workers if worker.busy]
    timeout = max(0.0, min(worker.deadline for worker in busy) - time.monotonic()) + 0.01
    multiprocessing.connection.wait(
        [worker.connection for worker in busy] + [worker.process.sentinel for worker in busy], timeout
    )


def _serve(connection: multiprocessing.connection.Connection) -> None:
    """Main loop of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; only the parent handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        while True:
            function, task = connection.recv()
            connection.send(_outcome(function, task, lambda item: connection.send(("begin", item))))
    except (EOFError, ConnectionError):
        return


def _outcome(function: Callable[[Any, Announce], Any], task: Any, announce: Announce) -> tuple[str, Any]:
    """Calls the function. Returns what the parent is told: a kind, and the result or a message."""
    try:
        return "done", function(task, announce)
    except UserError as error:
        return "user_error", str(error)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return "user_error", f"{error.strerror or error}{where}"
    except Exception:  # noqa: BLE001 (the parent raises it)
        return "bug", traceback.format_exc()


def _end_with_parent() -> None:
    """Ends this worker at once if the parent is killed, even during a decoder that hangs.

    It must not write to its shard when the command is restarted and another worker writes the same one.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _ignored_in_children(number: signal.Signals) -> Iterator[None]:
    """Makes children started in the block ignore the signal from the start, before they could do so themselves."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Treats SIGTERM (sent by clusters to end a job) like Ctrl-C, so that workers and temporary files go away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
