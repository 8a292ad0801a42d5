"""The explorer: its controls, and the page of the real command in a real browser."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import tensorflow as tf

from tests.browser import chromium, open_page, serving
from tests.conftest import tiny_config
from tganv2_tf import cli, explore
from tganv2_tf.errors import ConfigError, UserError
from tganv2_tf.explorer import server
from tganv2_tf.explorer.limits import Limits
from tganv2_tf.models.generator import Generator
from tganv2_tf.runs import CHECKPOINT_DIR, record_config

pytest.importorskip("gradio", reason="no Gradio: it is in requirements-explore.txt, for Python 3.10 and newer")
import uvicorn

from benchmarks.stress import load
from benchmarks.stress.load import Page, RequestError
from tganv2_tf.explorer import app
from tganv2_tf.explorer.app import IN_TURN, SIDE_BY_SIDE, WALK, WALK_FRAMES, Explorer

FRAMES = 4
CLASS_NAMES = ("left", "up & <b>")
LONG_NAMES = ("left", "BoxingPunchingBag & <b>")


class StandIn:
    """A sampler whose videos encode their inputs: red is the class, green the frame, blue the latent."""

    z_dim, latent, num_frames, num_levels, sizes = 1, 1, FRAMES, 2, (8, 16)
    fixed_length = False
    class_names = CLASS_NAMES
    description, fps = "a stand-in", 0.0

    def latents(self, seeds: Sequence[int], truncation: float = 1.0) -> np.ndarray:
        return truncation * np.array(seeds, np.float32)[:, np.newaxis] / 10

    def render(self, z: np.ndarray, num_frames: int, level: int, labels: Sequence[int]) -> np.ndarray:
        size = self.sizes[level - 1]
        videos = np.zeros((len(z), num_frames, size, size, 3))
        videos[..., 0] = 200 * np.reshape(labels, (-1, 1, 1, 1))
        videos[..., 1] = 50 * np.arange(num_frames)[:, np.newaxis, np.newaxis]
        videos[..., 2] = 200 * np.reshape(z[:, 0], (-1, 1, 1, 1))
        return videos.astype(np.uint8)


@pytest.fixture
def explorer() -> Explorer:
    return Explorer(StandIn(), Limits())  # type: ignore[arg-type]


def mp4s(html: str) -> list[bytes]:
    return [base64.b64decode(found) for found in re.findall(r"data:video/mp4;base64,([^\"]+)", html)]


def decode(mp4: bytes) -> np.ndarray:
    return iio.imread(mp4, extension=".mp4", plugin="FFMPEG")


def colours(mp4: bytes) -> np.ndarray:
    """Mean colour of each frame, [T, 3]."""
    return decode(mp4).mean((1, 2))


def test_videos_of_fixed_length_have_only_that_length() -> None:
    class Fixed(StandIn):
        fixed_length = True

    explorer = Explorer(Fixed(), Limits())  # type: ignore[arg-type]
    assert (explorer.min_frames, explorer.max_frames) == (FRAMES, FRAMES)
    assert len(decode(mp4s(explorer.gallery("3", 1.0, FRAMES, 2, IN_TURN, 10))[0])) == FRAMES
    with pytest.raises(UserError, match=f"Frames: '{FRAMES + 1}' is not valid; valid: a whole number from 4 to 4"):
        explorer.gallery("3", 1.0, FRAMES + 1, 2, IN_TURN, 10)


def test_the_gallery_has_a_video_a_seed_of_the_size_length_and_class_that_are_asked_for(explorer: Explorer) -> None:
    html = explorer.gallery("4-5,10", 0.5, 3, 1, IN_TURN, 10)
    videos = mp4s(html)
    for video, label, seed in zip(videos, (0, 1, 0), (4, 5, 10)):
        assert decode(video).shape == (3, 64, 64, 3)  # level 1 has 8 pixels, and 16 become 128
        expected = [[200 * label, 50 * t, 200 * 0.5 * seed / 10] for t in range(3)]
        np.testing.assert_allclose(colours(video), expected, atol=8)
    assert re.findall(r'data-seed="(\d+)"', html) == ["4", "5", "10"]
    assert re.findall(r"<small>(.*?)</small>", html) == ["left", "up &amp; &lt;b&gt;", "left"]
    red = [colours(video)[0, 0] for video in mp4s(explorer.gallery("0-2", 1.0, 3, 2, 1, 10))]
    np.testing.assert_allclose(red, 200, atol=8)


def test_the_steps_between_two_seeds_begin_and_end_with_them(explorer: Explorer) -> None:
    settings = (1.0, FRAMES, 2, IN_TURN, 10)
    html = explorer.interpolate("0", "8", 4, "linear", SIDE_BY_SIDE, *settings)
    videos = mp4s(html)
    np.testing.assert_allclose([colours(video)[0, 2] for video in videos], [0, 40, 80, 120, 160], atol=8)
    assert [videos[0], videos[-1]] == mp4s(explorer.gallery("0,8", *settings))
    assert re.findall(r"<span>(.*?)</span>", html) == ["0%", "25%", "50%", "75%", "100%"]
    assert "data-seed" not in html, "only videos of seeds can be picked"


@pytest.mark.parametrize(
    ("label", "steps", "classes"), [(IN_TURN, 1, [1, 0]), (IN_TURN, 4, [1, 1, 1, 0, 0]), (1, 2, [1, 1, 1])]
)
def test_between_two_classes_both_ends_are_as_they_were_clicked(
    explorer: Explorer, label: int, steps: int, classes: list[int]
) -> None:
    settings = (1.0, FRAMES, 2, label, 10)  # alternating: seed 1 has class 1, and 8 has class 0
    html = explorer.interpolate("1", "8", steps, "linear", SIDE_BY_SIDE, *settings)
    videos = mp4s(html)
    assert [videos[0], videos[-1]] == mp4s(explorer.gallery("1,8", *settings))
    np.testing.assert_allclose([colours(video)[0, 0] for video in videos], 200 * np.array(classes), atol=8)
    names = ["left", "up &amp; &lt;b&gt;"]
    assert re.findall(r"<small>(.*?)</small>", html) == [names[number] for number in classes]
    html = explorer.interpolate("1", "8", 1, "linear", WALK, *settings)
    (walk,) = mp4s(html)
    np.testing.assert_allclose(colours(walk)[:, 0], 4 * [200] + 3 * [200 * classes[-1]], atol=8)
    both = " to ".join(names[number] for number in dict.fromkeys(classes))
    assert re.findall(r"<small>(.*?)</small>", html) == [both]


def test_a_walk_is_one_video_whose_latent_moves_and_whose_clock_goes_back_and_forth(explorer: Explorer) -> None:
    (video,) = mp4s(explorer.interpolate("0", "10", 1, "linear", WALK, 1.0, FRAMES, 2, IN_TURN, 10))
    assert WALK_FRAMES == 6
    np.testing.assert_allclose(colours(video)[:, 1], [0, 50, 100, 150, 100, 50, 0], atol=8)
    np.testing.assert_allclose(colours(video)[:, 2], np.arange(7) / 6 * 200, atol=8)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("a", "Seeds: 'a' is neither a number nor a range; valid: for example 0-15 or 3,7,12"),
        ("3-1", "Seeds: the range '3-1' is reversed; valid: 1-3"),
        (str(2**63), f"Seeds: {2**63} is too large; valid: below 2^63"),
        ("0-100000", "Seeds: too many; valid: up to 100000"),
        ("0-64", "65 videos are too many at once; valid: up to 64"),
    ],
)
def test_seeds_that_cannot_be_shown_are_named_as_the_page_calls_them(
    explorer: Explorer, seeds: str, message: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        explorer.gallery(seeds, 1.0, FRAMES, 1, IN_TURN, 10)
    valid = f"{seeds!r} is not valid; valid: a whole number from 0 to {2**63 - 1}"
    for field, ends in (("From seed", (seeds, " 1 ")), ("To seed", (" 1 ", seeds))):
        with pytest.raises(UserError, match=f"^{field}: {valid}$"):
            explorer.interpolate(*ends, 2, "linear", SIDE_BY_SIDE, 1.0, FRAMES, 1, IN_TURN, 10)


# Truncation, frames, level, class, frames per second: values of the page, then invalid values of each.
VALID = (1.0, FRAMES, 2, IN_TURN, 10)
NOT_VALID: list[tuple[int, Any, str]] = [
    (0, -0.1, "Truncation: '-0.1' is not valid; valid: a number from 0 to 1"),
    (0, "1", "Truncation: '1' is not valid"),
    (0, float("nan"), "Truncation: 'nan' is not valid"),
    (1, 33, "Frames: '33' is not valid; valid: a whole number from 1 to 32"),  # eight times those of training
    (1, 10**400, "Frames: '1000"),
    (1, 2.5, "Frames: '2.5' is not valid"),
    (1, 0, "Frames: '0' is not valid"),
    (1, None, "Frames: 'None' is not valid"),
    (2, 0, "Level: '0' is not valid; valid: a whole number from 1 to 2"),
    (2, [1], "Level: '[1]' is not valid"),
    (3, 2, "Class: '2' is not valid; valid: a whole number from -1 to 1"),
    (3, -2, "Class: '-2' is not valid"),
    (4, 31, "Frames per second: '31' is not valid; valid: a number from 1 to 30"),
    (4, 0, "Frames per second: '0' is not valid"),
]


@pytest.mark.parametrize(("place", "value", "message"), NOT_VALID)
def test_values_that_no_control_allows_are_refused(explorer: Explorer, place: int, value: Any, message: str) -> None:
    settings = [value if number == place else each for number, each in enumerate(VALID)]
    with pytest.raises(UserError, match=re.escape(message)):
        explorer.gallery("0", *settings)
    with pytest.raises(UserError, match=re.escape(message)):
        explorer.interpolate("0", "1", 2, "linear", WALK, *settings)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("0", "1", 16, "linear", WALK), "Steps: '16' is not valid; valid: a whole number from 1 to 15"),
        (("0", "1", 2, "sideways", WALK), "Method: 'sideways' is not valid; valid: linear, spherical"),
        (("0", "1", 2, ["linear"], WALK), "Method: "),
        (("0", "1", 2, "linear", None), "Show: 'None' is not valid"),
        (("0", 1, 2, "linear", WALK), "To seed: valid: text of up to 1000 characters"),
        (("0" * 1001, "1", 2, "linear", WALK), "From seed: valid: text of up to 1000 characters"),
    ],
)
def test_ways_that_no_control_allows_are_refused(explorer: Explorer, asked: tuple[Any, ...], message: str) -> None:
    values: tuple[Any, ...] = (*asked, *VALID)
    with pytest.raises(UserError, match=re.escape(message)):
        explorer.interpolate(*values)


def test_all_pixels_of_an_answer_are_counted_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    # A frame of level 2 is displayed with 128x128 pixels: 49,152 bytes. 20 frames are just below a megabyte.
    limited = Explorer(StandIn(), Limits(max_megabytes=1, max_frames=100))  # type: ignore[arg-type]
    assert len(mp4s(limited.gallery("0-4", 1.0, 4, 2, IN_TURN, 10))) == 5
    assert len(mp4s(limited.gallery("0-9", 1.0, 8, 1, IN_TURN, 10))) == 10, "a quarter of the pixels at level 1"
    monkeypatch.setattr(StandIn, "render", None)
    with pytest.raises(UserError, match="7 videos of 3 frames of 128x128 pixels are 1 MB; valid: up to 1 MB"):
        limited.gallery("0-6", 1.0, 3, 2, IN_TURN, 10)
    with pytest.raises(UserError, match="6 videos of 4 frames"):
        limited.interpolate("0", "1", 5, "linear", SIDE_BY_SIDE, 1.0, 4, 2, IN_TURN, 10)
    with pytest.raises(UserError, match="1 videos of 25 frames"):  # one frame per latent, six per step
        limited.interpolate("0", "1", 4, "linear", WALK, 1.0, 4, 2, IN_TURN, 10)


class Slow(StandIn):
    """Renders only when released."""

    def __init__(self) -> None:
        self.begun, self.let = threading.Event(), threading.Event()

    def render(self, *values: Any) -> np.ndarray:
        self.begun.set()
        self.let.wait(60)
        return super().render(*values)


def waiting(page: Page) -> int:
    return json.loads(page.send("GET", "/gradio_api/queue/status")[1])["queue_size"]


def test_limits_hold_over_http_whatever_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, build = Slow(), app.build
    pages: list[Any] = []

    def noted(*given: Any) -> Any:
        pages.append(build(*given))
        return pages[0]

    monkeypatch.setattr(load, "TIMEOUT", 60)  # in case clients are not rejected when too many wait
    monkeypatch.setattr(app, "build", noted)
    limits = Limits(max_waiting=3, max_request_kilobytes=2)
    with server.listen("127.0.0.1", 0) as listener:
        answering = uvicorn.Server(uvicorn.Config(app.application(sampler, limits), log_level="error"))  # type: ignore[arg-type]
        thread = threading.Thread(target=answering.run, args=([listener],))
        thread.start()
        try:
            page = Page(listener.getsockname()[1])
            assert (page.num_levels, page.num_classes) == (2, 2)
            for place, value, message in NOT_VALID:
                if isinstance(value, int) and value > 2**63:
                    continue  # not representable in Gradio's JSON
                settings = [value if number == place else each for number, each in enumerate(VALID)]
                with pytest.raises(RequestError, match=re.escape(message)):
                    page.call(("0", *settings))
            assert not sampler.begun.is_set(), "nothing was drawn for them"
            with pytest.raises(RequestError, match=r"413: request too large; valid: up to 2,000 bytes"):
                page.call(("1," * 1500, *VALID))
            for path in ("upload", "run/call", "call/call", "queue/join/more", "component_server", "vibe-edit"):
                assert page.send("POST", f"/gradio_api/{path}", b"{}")[0] == 405
            assert page.send("PUT", "/gradio_api/queue/join", b"{}")[0] == 405
            assert page.send("GET", "/gradio_api/proxy=http://127.0.0.1/")[0] == 403
            assert page.send("GET", "/gradio_api/file=/etc/passwd")[0] == 403

            # One request is rendered, three wait, and a fifth is rejected; then all four are answered in order.
            answers: list[str] = []
            clients = [threading.Thread(target=lambda: answers.append(page.call(("0", *VALID)))) for _ in range(4)]
            clients[0].start()
            assert sampler.begun.wait(30)
            for number, client in enumerate(clients[1:], 1):
                client.start()
                while waiting(page) < number:
                    time.sleep(0.02)
            with pytest.raises(RequestError, match=r"503: .*Queue is full. Max size is 3"):
                page.call(("0", *VALID))
            sampler.let.set()
            for client in clients:
                client.join(30)
            assert len(answers) == 4 and len(set(answers)) == 1
            # Each call was from another visitor; state is kept for at most six of them.
            assert len(pages[0].state_holder.session_data) == 6
            assert len(pages[0]._queue.pending_messages_per_session) == 6
        finally:
            sampler.let.set()
            answering.should_exit = answering.force_exit = True
            thread.join(30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of --model_dir and --saved_model"),
        (["--model_dir=a", "--saved_model=b"], "exactly one of --model_dir and --saved_model"),
        (["--model_dir=a", "--port=65536"], "--port=65536: valid: a whole number from 0 to 65535"),
        (["--model_dir=a", "--host=no.such.host.invalid"], "--host=no.such.host.invalid: no such host"),
        (["--model_dir=a", "--max_videos=0"], "--max_videos=0: valid: a whole number of at least 1"),
        (["--model_dir={}/nowhere", "--port=0"], "nowhere"),
        (["--saved_model={}/nowhere", "--port=0"], "nowhere: no SavedModel found"),
    ],
)
def test_what_cannot_work_is_one_line(
    arguments: list[str], message: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(tmp_path) for argument in arguments]
    assert cli.run(explore.main, (explore.Command, Limits), "tganv2_tf.explore", "", given) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("explore: ") and message in said and said.count("\n") == 1


def test_a_port_in_use_is_named() -> None:
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert server.address(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(ConfigError, match=rf"--port={port}: address already in use"):
            server.listen("127.0.0.1", port)


def test_without_gradio_the_file_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-explore\.txt"):
        server.load_gradio()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with two classes and initial weights."""
    folder = tmp_path_factory.mktemp("run")
    model: dict[str, Any] = {"conditional": True, "num_classes": len(CLASS_NAMES)}
    config = tiny_config(model=model, model_dir=str(folder))
    record_config(config, LONG_NAMES)
    checkpoint = tf.train.Checkpoint(ema_generator=Generator(config.model), step=tf.Variable(7, dtype=tf.int64))
    tf.train.CheckpointManager(checkpoint, str(folder / CHECKPOINT_DIR), 1).save(7)
    return str(folder)


# The texts of truncated labels and buttons of tiles.
CUT_OFF = """[...document.querySelectorAll('.tile')].flatMap(tile => [...tile.querySelectorAll('span, small, .save')]
  .filter(part => (getComputedStyle(part).overflow !== 'visible' && part.scrollWidth > part.clientWidth)
    || part.getBoundingClientRect().right > tile.getBoundingClientRect().right)
  .map(part => part.innerText || part.title))"""


@pytest.mark.slow
def test_a_browser_shows_playing_videos_and_asks_no_other_host(model_dir: str, tmp_path: pathlib.Path) -> None:
    with chromium() as browser, socket.create_server(("127.0.0.1", 0)) as proxy:
        # Requests of the server to other hosts go to this proxy, which does not answer.
        proxies = {f"{kind}_proxy": f"http://127.0.0.1:{proxy.getsockname()[1]}" for kind in ("http", "https", "all")}
        (tmp_path / "temporary").mkdir()
        environment = {**proxies, "TMPDIR": str(tmp_path / "temporary"), "PYTHONUNBUFFERED": "1"}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # otherwise TensorFlow's AutoGraph leaves a __pycache__ in TMPDIR
        command = [sys.executable, "-m", "tganv2_tf.explore", f"--model_dir={model_dir}", "--port=0"]
        with serving(command, environment) as (process, address):
            page, others = open_page(browser, width=1300)
            held: list[Any] = []
            page.route("**/gradio_api/queue/data*", lambda route: held.append(route))
            page.goto(address)
            page.locator("#seeds .progress-text").wait_for()  # until the rendering is released
            parts = ("#seeds .progress-text", "button:has-text('Interpolate')")
            note, button = (page.locator(part).bounding_box() for part in parts)
            assert note and button and note["y"] + note["height"] <= button["y"], "it does not cover the button"
            for route in held:
                route.continue_()
            page.unroute("**/gradio_api/queue/data*")
            first = page.locator("#seeds video").first
            first.wait_for()
            assert page.locator("#seeds video").count() == 16
            page.get_by_text(f"{model_dir}, step 7", exact=False).wait_for()
            # It plays in a loop: after 0.4 s, the length of the clip, it restarts.
            page.wait_for_function("document.querySelector('#seeds video').currentTime > 0.2")
            page.wait_for_function("document.querySelector('#seeds video').currentTime < 0.1")
            page.wait_for_function("document.querySelector('#seeds video').currentTime > 0.2")
            assert first.evaluate("video => [video.videoWidth, video.videoHeight, video.paused]") == [128, 128, False]
            assert page.locator("#seeds small").all_inner_texts()[:3] == ["left", LONG_NAMES[1], "left"]
            assert page.evaluate(CUT_OFF) == []

            page.get_by_label("number input for Level").fill("1")
            page.get_by_label("number input for Level").blur()
            page.wait_for_function("document.querySelector('#seeds video').videoWidth === 64")

            page.get_by_label("Class", exact=True).click()
            page.get_by_role("option", name="left").click()
            page.wait_for_function("[...document.querySelectorAll('#seeds small')].every(n => n.innerText === 'left')")

            page.get_by_label("Seeds").fill("3,123456789")
            page.get_by_label("Seeds").press("Enter")
            page.wait_for_function("document.querySelectorAll('#seeds video').length === 2")
            held.clear()  # the server's answers: the second click comes before that to the first
            page.route("**/gradio_api/queue/data*", lambda route: held.append(route))
            for number in (0, 1):
                page.locator("#seeds .tile").nth(number).click()
                page.wait_for_timeout(500)
            assert held
            for route in held:
                route.continue_()
            page.unroute("**/gradio_api/queue/data*")
            page.wait_for_function("document.querySelectorAll('#seeds .picked').length === 2")
            page.wait_for_function(
                "[...document.querySelectorAll('input, textarea')].some(n => n.value === '123456789')"
            )
            assert page.evaluate(CUT_OFF) == []
            assert page.get_by_label("From seed").input_value() == "3"
            page.get_by_label("number input for Steps").fill("2")
            page.get_by_label("number input for Steps").blur()
            page.get_by_role("button", name="Interpolate").click()
            page.wait_for_function("document.querySelectorAll('#steps video').length === 3")

            with page.expect_download() as download:
                page.locator("#seeds .save").nth(1).click()
            assert download.value.suggested_filename == "seed123456789.mp4"
            download.value.save_as(tmp_path / "saved.mp4")
            assert iio.imread(tmp_path / "saved.mp4").shape == (FRAMES, 64, 64, 3)

            page.get_by_label("Seeds").fill("x")
            page.get_by_label("Seeds").press("Enter")
            page.get_by_text("Seeds: 'x' is neither a number nor a range").first.wait_for()
            assert others == []
        assert process.returncode == 0
        assert list((tmp_path / "temporary").iterdir()) == []
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()
