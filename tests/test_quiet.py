"""TensorFlow's log noise is suppressed, all other output arrives. Every check runs a separate process."""

import os
import pathlib
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tganv2_tf import lanes, quiet

ROOT = pathlib.Path(__file__).resolve().parent.parent
STAMP = "2026-01-02 03:04:05.678901: "
NOISE = [
    STAMP + "E external/xla/stream_executor/cuda/cuda_dnn.cc:9261] Unable to register cuDNN factory: Attempting",
    STAMP + "E external/xla/stream_executor/cuda/cuda_fft.cc:607] Unable to register cuFFT factory: Attempting",
    STAMP + "E external/xla/stream_executor/cuda/cuda_blas.cc:1515] Unable to register cuBLAS factory: Attemp",
    STAMP + "W tensorflow/compiler/tf2tensorrt/utils/py_utils.cc:38] TF-TRT Warning: Could not find TensorRT",
    STAMP + "E tensorflow/core/grappler/optimizers/meta_optimizer.cc:961] remapper failed: INVALID_ARGUMENT: Mutation",
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795350452.910735    5557 device_compiler.h:186] Compiled cluster using XLA!  This line is logged",
    "E0000 00:00:1795350452.910735    5557 meta_optimizer.cc:967] remapper failed: INVALID_ARGUMENT: Mutation",
    "E0000 00:00:1795350452.910735    5557 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed "
    "call to cuInit: UNKNOWN ERROR (303)",
]
REAL = [
    STAMP + "W external/local_tsl/tsl/framework/bfc_allocator.cc:485] Allocator (GPU_0_bfc) ran out of memory",
    STAMP + "E external/xla/stream_executor/cuda/cuda_dnn.cc:407] Could not create cudnn handle",
    STAMP + "E tensorflow/core/grappler/optimizers/meta_optimizer.cc:961] layout failed: INVALID_ARGUMENT",
    STAMP + "F tensorflow/core/grappler/optimizers/meta_optimizer.cc:961] remapper failed: Check failed",
    "E0000 00:00:1795350452.910735    5557 device_compiler.h:186] Compiled cluster using XLA! not",
    "E0000 00:00:1795350452.910735    5557 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed "
    "call to cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)",
    "I1129 07:46:26.256389 140134082259840 distribution.py:193] absl's own in a worker",
    "read about " + NOISE[4],
    "remapper failed:",
]


def environment(**changes: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return {**inherited, "PYTHONPATH": str(ROOT), lanes.ONEDNN: "1", **changes}


def script(body: str) -> list[str]:
    head = "import ctypes, os, signal, sys, time, warnings\nimport absl.logging\n"
    head += "from tganv2_tf import quiet\nquiet.install()\n"
    return [sys.executable, "-c", head + textwrap.dedent(body)]


def run(body: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(script(body), env=environment(**changes), capture_output=True, text=True, timeout=120)


# Two convolutions, each with a bias and a leaky ReLU, and their gradients: they make grappler's remapper fail.
TENSORFLOW = """
    import tensorflow as tf
    from tganv2_tf import lanes; lanes.progress_bar_class()
    kernel, bias = tf.Variable(tf.ones([3, 3, 8, 8])), tf.Variable(tf.zeros(8))
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 8])])
    def step(x):
        with tf.GradientTape() as tape:
            for _ in range(3):
                x = tf.nn.leaky_relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))
            loss = tf.reduce_sum(x)
        return tape.gradient(loss, [kernel, bias])
    step(tf.ones([2, 8, 8, 8]))
    for _ in tf.data.Dataset.range(3).cache().take(1):  # a real warning of level W
        pass
"""


def test_tensorflow_is_silent_but_for_a_real_warning() -> None:
    loud = run(TENSORFLOW, TF_CPP_MIN_LOG_LEVEL="0")
    assert loud.returncode == 0, loud.stderr
    of_lane = [] if lanes.has_legacy_keras() else ["Unable to register cuDNN", "TF-TRT Warning", "TFA"]
    for text in ("oneDNN", "remapper failed", "fully read", *of_lane):
        assert text in loud.stderr  # otherwise the run below proves nothing
    still = run(TENSORFLOW)
    assert still.returncode == 0, still.stderr
    assert len(still.stderr.splitlines()) == 1
    assert "The calling iterator did not fully read the dataset being cached" in still.stderr


def test_only_noise_is_left_out() -> None:
    lines = [line for pair in zip(NOISE, REAL) for line in pair]
    finished = run(f"os.write(2, {chr(10).join(lines).encode()!r})")
    assert finished.stderr.splitlines() == REAL


def test_noise_is_known_by_its_beginning() -> None:
    body = f"os.write(2, {NOISE[0].encode()!r}); time.sleep(0.5); os.write(2, b' to register\\nreal\\n')"
    assert run(body).stderr == "real\n"


def test_a_level_of_the_user_s_own_is_kept() -> None:
    body = f"os.write(1, os.environ['TF_CPP_MIN_LOG_LEVEL'].encode()); os.write(2, {NOISE[0].encode()!r})"
    assert [(r.stdout, r.stderr) for r in (run(body), run(body, TF_CPP_MIN_LOG_LEVEL="2"))] == [("1", ""), ("2", "")]
    assert run(body, TF_CPP_MIN_LOG_LEVEL="0").stderr == NOISE[0]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ("ctypes.CDLL(None).__assert_fail(b'batch > 0', b'kernel.cc', 7, b'Compute')", -signal.SIGABRT, "`batch > 0'"),
        ("os.write(2, b'last words'); os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "last words"),
        ("os.write(2, b'last words'); os._exit(3)", 3, "last words"),
        ("os.write(2, b'last words')", 0, "last words"),
        ("print('last words', file=sys.stderr)", 0, "last words"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("sys.exit('last words')", 1, "last words"),
        ("warnings.warn('last words')", 0, "UserWarning: last words"),
    ],
)
def test_the_last_words_arrive(body: str, status: int, text: str) -> None:
    finished = run(body)
    assert finished.returncode == status
    assert text in finished.stderr


def test_a_large_message_arrives_whole_and_in_order() -> None:
    lines = "".join(f"{number:07d}\n" for number in range(50_000))  # 400 kB, far more than a pipe's buffer
    assert run("os.write(2, b''.join(b'%07d\\n' % n for n in range(50_000)))").stderr == lines


def test_python_and_c_keep_their_order_at_human_speed() -> None:
    body = """
        for number in range(3):
            os.write(2, b'c'); time.sleep(0.2)
            sys.stderr.write('p'); sys.stderr.flush(); time.sleep(0.2)
    """
    assert run(body).stderr == "cpcpcp"


def test_on_a_terminal_bars_are_bars_and_nothing_waits_for_a_line_to_end() -> None:
    leader, follower = pty.openpty()
    body = "sys.stderr.write('%s\\rbar' % sys.stderr.isatty()); sys.stderr.flush()\nos.write(2, b' c'); time.sleep(60)"
    process = subprocess.Popen(script(body), env=environment(), stderr=follower)
    shown, deadline = b"", time.monotonic() + 30
    try:
        while shown != b"True\rbar c" and time.monotonic() < deadline:
            if select.select([leader], [], [], 0.1)[0]:
                shown += os.read(leader, 100)
        assert shown == b"True\rbar c"
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        os.close(leader)
        os.close(follower)


def test_absl_logs_as_directly_as_python_does() -> None:
    body = """
        from absl import flags, logging
        flags.FLAGS.mark_as_parsed()
        logging.use_absl_handler()
        for number in range(200):
            logging.warning("a%d", number)
            logging.warning("Sharding callback duration: %s microseconds", number)
            print(f"p{number}", file=sys.stderr)
    """
    lines = run(body).stderr.splitlines()
    assert [line.split()[-1] for line in lines] == [f"{letter}{number}" for number in range(200) for letter in "ap"]


def test_a_signal_does_not_end_the_filter_before_the_run() -> None:
    body = """
        def save(*_):
            time.sleep(0.3)
            os.write(2, b'saved')
            sys.exit(0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, save)
        os.write(2, b'ready\\n')
        time.sleep(60)
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process = subprocess.Popen(
            script(body),
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        os.killpg(process.pid, number)  # as a terminal does; the filter is in the group
        assert process.communicate(timeout=30)[1] == "saved"


def test_a_terminal_that_is_gone_does_not_stop_the_run() -> None:
    body = "os.write(2, b'ready\\n'); sys.stdin.read()\nfor _ in range(9): os.write(2, bytes(50_000)); time.sleep(0.1)"
    process = subprocess.Popen(script(body), env=environment(), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    assert process.stderr.readline() == b"ready\n"
    process.stderr.close()
    process.stdin.close()
    assert process.wait(timeout=30) == 0


def test_workers_share_the_filter() -> None:
    worker = f"""if True:
        import os
        from tganv2_tf import quiet
        quiet.install()
        print(quiet._identity(2))
        os.write(2, {NOISE[0].encode()!r} + b"\\nwork")
    """
    body = f"""
        import subprocess
        before = quiet._identity(2)
        quiet.install()
        inside = subprocess.run([sys.executable, "-c", {worker!r}], stdout=subprocess.PIPE, text=True).stdout
        print(before == quiet._identity(2) == inside.strip())
    """
    finished = run(body)
    assert (finished.stdout, finished.stderr) == ("True\n", "work")


def test_a_worker_that_lives_on_does_not_hold_up_the_exit() -> None:
    body = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True)"
    process = subprocess.Popen(
        script(body), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    try:
        assert process.wait(timeout=10) == 0
    finally:
        os.kill(worker, signal.SIGKILL)
        process.stdout.close()


def test_a_closed_or_captured_stderr_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    before = (sys.stderr, quiet._identity(2))
    quiet.install()
    assert (sys.stderr, quiet._identity(2)) == before
    command = [*script("print('done')")]
    closed = subprocess.run(
        ["bash", "-c", '"$@" 2>&-', "bash", *command], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert (closed.returncode, closed.stdout) == (0, "done\n")
