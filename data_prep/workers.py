"""Worker processes under supervision: one that dies or hangs costs the item it was at, and nothing else.

Decoders are C code that meets damaged files, so a crash or an endless loop must be an ordinary event. A worker says
which item of its task it begins; from then on the parent knows whom to blame. `concurrent.futures` breaks as a whole
when a worker is killed, and `multiprocessing.Pool` waits for ever.
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


def num_processors() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


class WorkerPool:
    """Worker processes that stay between calls of `run_supervised`: to start one takes as long as some ten videos.

    A context manager; all of them are gone at its end.
    """

    def __init__(self, num_started: int = 0) -> None:
        """Takes how many are started at once, rather than when there is a task for them."""
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
      function: called in a worker as function(task, announce); importable from its module (workers are spawned). It
        calls announce(item) when it begins with an item, again whenever it has made headway with it, and announce(None)
        when it is past the last one.
      tasks: picklable; their items are hashable.
      num_workers: processes, at most.
      item_timeout: seconds from an announcement of an item to the next announcement.
      on_done: called here as on_done(task, what the function returned).
      on_lost: called here as on_lost(task, item, reason) when an item crashed its worker or took too long; returns the
        task that is to be run instead, usually the same without that item. Not when SIGKILL met a worker at this item
        for the first time: where memory ran out, another process may have been to blame, and the task is run again.
      on_begin: called here as on_begin(task, item) for every announced item.
      pool: whose idle workers are used first, and which keeps those that are started. Without one, all of them end with
        this call.
    Raises:
      UserError: the function raised one, or an OSError; or workers die outside of any item.
      RuntimeError: the function raised anything else; the message is its traceback.
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
                reason = worker.trouble(item_timeout) if worker.busy else None
                if reason is None:
                    continue
                was_killed = worker.process.exitcode == -signal.SIGKILL  # from outside
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
                    error = UserError(f"{reason}, {ATTEMPTS} times, at no video; try a smaller --num_workers")
            if error is not None:  # raised only now, so that what others have finished counts
                raise error


def _stop_busy(workers: list[_Worker]) -> None:
    for worker in [worker for worker in workers if worker.busy]:
        worker.kill()
        workers.remove(worker)


class _Worker:
    """One process, and what the parent knows of it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # fork copies the threads' locks of OpenCV and TensorFlow
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.busy, self.attempt, self.deadline = False, 0, 0.0
        self.task: Any = None
        self.item: Any = None
        with _ignored_in_children(signal.SIGINT):
            self.process.start()
        theirs.close()  # else the end of the worker would not close the pipe

    def assign(self, function: Callable[[Any, Announce], Any], task: Any, attempt: int) -> None:
        self.busy, self.task, self.attempt, self.item = True, task, attempt, None
        with contextlib.suppress(OSError):  # it died idle; `trouble` will say so
            self.connection.send((function, task))

    def listen(
        self, item_timeout: float, on_begin: Callable[[Any, Any], None], on_done: Callable[[Any, Any], None]
    ) -> Exception | None:
        """Reads all that it has said; returns the error with which its function ended, if so."""
        for kind, value in self._messages():
            if kind == "begin":
                self.item, self.deadline = value, time.monotonic() + item_timeout
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
        except (EOFError, ConnectionError):
            self.process.join()

    def trouble(self, item_timeout: float) -> str | None:
        """Why this worker must be replaced, or None. Asked after `listen`, as it may have finished before it died."""
        code = self.process.exitcode
        if code is not None:
            hint = " (out of memory?)" if code == -signal.SIGKILL else ""
            how = f"was killed by {signal.Signals(-code).name}{hint}" if code < 0 else f"ended with code {code}"
            return f"the worker process {how}"
        if self.item is not None and time.monotonic() > self.deadline:
            return f"it took longer than {item_timeout:g} s (--video_timeout)"
        return None

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _wait(workers: list[_Worker]) -> None:
    """Sleeps until a worker has something to say, has died, or is out of time."""
    busy = [worker for worker in workers if worker.busy]
    deadlines = [worker.deadline for worker in busy if worker.item is not None]
    timeout = max(0.0, min(deadlines) - time.monotonic()) + 0.01 if deadlines else None
    multiprocessing.connection.wait(
        [worker.connection for worker in busy] + [worker.process.sentinel for worker in busy], timeout
    )


def _serve(connection: multiprocessing.connection.Connection) -> None:
    """What a worker does all its life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent alone decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        while True:
            function, task = connection.recv()
            try:
                connection.send(("done", function(task, lambda item: connection.send(("begin", item)))))
            except (EOFError, ConnectionError):
                return
            except UserError as error:
                connection.send(("user_error", str(error)))
            except OSError as error:
                where = f": {error.filename}" if error.filename else ""
                connection.send(("user_error", f"{error.strerror or error}{where}"))
            except Exception:  # noqa: BLE001 (the parent raises it)
                connection.send(("bug", traceback.format_exc()))
    except (EOFError, ConnectionError):
        return


def _end_with_parent() -> None:
    """Ends this worker at once when the parent is killed, even in a decoder that hangs.

    It must not touch its shard any more when the command is started again and another worker writes the same one.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def _ignored_in_children(number: signal.Signals) -> Iterator[None]:
    """Children started inside ignore the signal from their first moment, before they could do so themselves."""
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
    """Makes SIGTERM, with which clusters end a job, the same as Ctrl-C, so that workers and temporary files go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
