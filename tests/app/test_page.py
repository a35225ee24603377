"""The served page: its API, its limits, and a click path through every tab in a browser."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import threading
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import gradio_client
import pytest
from playwright.sync_api import sync_playwright
from support.random_world import write_data, write_run
from support.tiny_videos import write_video

from m3.app.__main__ import Page, serve
from m3.app.page import _plain, _shown, harmless_name
from m3.app.worker import JobError, Worker

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
"""Chromium itself must not phone home either."""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data set (data), and a run with scores and a log (run)."""
    root = tmp_path_factory.mktemp("page")
    write_data(root / "data")
    write_run(root / "run")
    (root / "run" / "csv" / "version_0").mkdir(parents=True)
    (root / "run" / "csv" / "version_0" / "metrics.csv").write_text("step,train/loss\n0,9.5\n10,8.0\n20,7.5\n")
    scores = '{"scores": {"pck@0.1": {"horizons": [{"horizon": 1, "model": 0.5}, {"horizon": 2, "model": 0.4}]}}}'
    (root / "run" / "metrics.json").write_text(scores)
    return root


@pytest.fixture(scope="module")
def page(root):
    asked = argparse.Namespace(checkpoint="pretrained", root=root, port=None, device="cpu", option=[], open=False)
    page = serve(asked)
    yield page
    page.close()


@pytest.mark.parametrize(
    "path, name",
    [
        ("/tmp/a/walk.mp4", "walk.mp4"),
        ("/tmp/a/../../etc/passwd", "passwd"),
        ("a/$(reboot); ${oc.env:HOME}.MP4", "reboot_oc_env_HOME.mp4"),
        ("-rf.png", "rf.png"),
        ("…\u202egnp.exe", "gnp.exe"),
        (".csv", "csv"),
        ("a" * 300 + ".gif", "a" * 40 + ".gif"),
        ("b.p p", "b"),
        ("///", "clip"),
    ],
)
def test_names_of_uploads_are_harmless(path, name):
    assert harmless_name(path, "clip") == name


def test_names_in_messages_are_no_markup():
    assert "<img" not in str(_shown(JobError("<img src=x onerror=alert(1)>.mp4: damaged")))
    assert _plain("<b>[x](y)*") == r"\<b\>\[x\]\(y\)\*"


@pytest.mark.slow
def test_a_job_that_hangs_or_dies_does_not_stop_the_next(root, tmp_path):
    setup = {"checkpoint": "pretrained", "device": "cpu", "options": [], "root": str(root), "folder": str(tmp_path)}
    worker = Worker(setup, 30)
    try:
        assert worker.call("facts")["canvas_size"] == 128
        with pytest.raises(JobError, match="nowhere.mp4"):
            worker.call("look", path="nowhere.mp4", folder=str(tmp_path))
        with pytest.raises(JobError, match="a fault of m3"):
            worker.call("look")
        process = worker._process
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        threading.Timer(1, os.kill, (process.pid, signal.SIGKILL)).start()
        with pytest.raises(JobError, match="started again"):
            worker.call("facts")
        assert worker.call("facts")["canvas_size"] == 128

        worker._seconds = 0.05
        with pytest.raises(JobError, match="stopped after"):
            worker.call("example", folder=str(tmp_path))
        worker._seconds = 30
        assert worker.call("facts")["canvas_size"] == 128
    finally:
        worker.close()
    with pytest.raises(JobError):
        worker.call("facts")


@pytest.mark.slow
def test_the_model_that_is_not_there_is_named(tmp_path):
    asked = argparse.Namespace(
        checkpoint=str(tmp_path / "none"), root=tmp_path, port=None, device="cpu", option=[], open=False
    )
    with pytest.raises(SystemExit, match="error: .*none: no checkpoint there"):
        serve(asked)


@pytest.mark.slow
def test_through_the_client(page, tmp_path):
    client = gradio_client.Client(page.url, verbose=False)
    client.predict(api_name="/example")
    answer = client.predict(6, 1, 0, "", "", 1.0, 0, api_name="/roll_out")
    assert any("m3-generate" in str(each) for each in answer)
    # three requests at a time: each is answered
    video = write_video(tmp_path / "walk.mp4", num_frames=12, size=(96, 96))
    waiting = [client.submit(gradio_client.handle_file(str(video)), None, api_name="/look") for _ in range(3)]
    for job in waiting:
        job.result(timeout=60)
    with pytest.raises(Exception, match="outside of"):
        client.predict("../..", api_name="/data_set")


@pytest.mark.slow
def test_files_of_the_machine_and_other_names_are_refused(page):
    def status(path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> int:
        connection = HTTPConnection(urlsplit(page.url).netloc, timeout=30)
        connection.request(method, path, body, headers)
        return connection.getresponse().status

    assert status("/") == 200
    secret = Path(__file__).resolve()
    for path in (str(secret), "/etc/passwd", f"{page.own.path}/../../etc/passwd"):
        assert status(f"/gradio_api/file={path}") in (403, 404)
    asked = json.dumps({"data": [{"path": str(secret), "meta": {"_type": "gradio.FileData"}}, None]}).encode()
    calling = Request(f"{page.url}gradio_api/call/look", asked, {"Content-Type": "application/json"})
    event = json.load(urlopen(calling, timeout=30))["event_id"]
    answer = urlopen(f"{page.url}gradio_api/call/look/{event}", timeout=30).read()
    assert b"event: error" in answer and b"not uploaded by a user" in answer
    assert status("/", Host="rebound.example.org") == 400
    large = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.mp4\r\n\r\n" + b"0" * (65 * 2**20)
    large += b"\r\n--x--\r\n"
    code = status("/gradio_api/upload", "POST", large, **{"Content-Type": "multipart/form-data; boundary=x"})
    assert code == 413
    assert sum(path.stat().st_size for path in page.own.path.rglob("*") if path.is_file()) < 2**26


@pytest.mark.slow
@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_a_click_path_through_every_tab(page: Page, look: str):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert browser is not None, "no Chromium: apt-get install chromium"
    is_phone = look == "phone"
    size = {"width": 390, "height": 844} if is_phone else {"width": 1280, "height": 900}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=ARGUMENTS)
        context = chromium.new_context(
            viewport=size, color_scheme="dark" if look == "dark" else "light", is_mobile=is_phone, has_touch=is_phone
        )
        tab = context.new_page()
        errors: list[str] = []
        elsewhere: list[str] = []
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        own = (page.url.rstrip("/"), "data:", "blob:")
        tab.on("request", lambda request: None if request.url.startswith(own) else elsewhere.append(request.url))

        def fits() -> bool:
            return tab.evaluate("document.documentElement.scrollWidth") <= size["width"]

        def choose(box: str) -> None:
            tab.wait_for_timeout(1500)  # the list is asked for when the tab opens
            tab.click(f"{box} input")
            tab.wait_for_timeout(300)
            tab.keyboard.press("ArrowDown")
            tab.keyboard.press("Enter")

        tab.goto(page.url)
        tab.click("#m3-example")
        tab.wait_for_selector("#m3-reference img")
        shown = tab.locator("#m3-reference img")
        before, box = shown.get_attribute("src"), shown.bounding_box()
        assert box is not None
        shown.click(position={"x": box["width"] * 0.5, "y": box["height"] * 0.25})  # chooses a joint
        tab.wait_for_function("src => document.querySelector('#m3-reference img').src != src", arg=before)
        before = shown.get_attribute("src")
        shown.click(position={"x": box["width"] * 0.55, "y": box["height"] * 0.2})  # moves it
        tab.wait_for_function("src => document.querySelector('#m3-reference img').src != src", arg=before)
        tab.click("#m3-go")
        tab.wait_for_selector("#m3-frame img")
        assert "copy of the reference" in tab.inner_text("#m3-verdict")
        assert "m3-generate" in tab.inner_text("#m3-command")
        before = tab.locator("#m3-frame img").get_attribute("src")
        tab.uncheck("#m3-skeleton input")
        tab.wait_for_function("src => document.querySelector('#m3-frame img').src != src", arg=before)
        assert fits()

        tab.get_by_role("tab", name="Any from any").click()
        tab.click("#m3-any-example")
        tab.click("#m3-any-go")
        tab.wait_for_selector("#m3-sheet img")
        assert tab.locator("#m3-untrained input").first.is_disabled() and fits()

        tab.get_by_role("tab", name="Data").click()
        choose("#m3-data")
        tab.click("#m3-data-go")
        tab.wait_for_selector("#m3-pairs img")
        assert "9 pairs" in tab.inner_text("#m3-data-facts") and fits()

        tab.get_by_role("tab", name="Runs").click()
        choose("#m3-runs")
        tab.keyboard.press("Escape")
        tab.click("#m3-runs-go")
        tab.wait_for_selector("#m3-runs-scores table")
        tab.wait_for_selector("#m3-curves canvas, #m3-curves svg")
        assert "PCK@0.1" in tab.inner_text("#m3-runs-scores") and fits()
        chromium.close()
    assert errors == [] and elsewhere == []
