"""A headless Chromium driven over the WebDriver protocol (W3C), with nothing but the standard
library.

Tests that need it are skipped where chromium or chromedriver is missing.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Right": "\ue014",
    "Down": "\ue015",
    "Home": "\ue011",
    "End": "\ue010",
}
CHROMIUM, DRIVER = (
    shutil.which("chromium") or shutil.which("google-chrome"),
    shutil.which("chromedriver"),
)

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"
)


class Browser:
    """One session; every method is one command of the protocol."""

    def __init__(self, address: str, session: str):
        self._base = f"{address}/session/{session}"

    def open(self, path: Path) -> None:
        self.post("url", url=path.resolve().as_uri())

    def run(self, script: str, *values: Any) -> Any:
        return self.post("execute/sync", script=script, args=list(values))

    def click(self, selector: str) -> None:
        found = self.post("element", using="css selector", value=selector)
        self.post(f"element/{found[ELEMENT]}/click")

    def press(self, *names: str) -> None:
        """Press keys on whatever has the focus."""
        strokes = [
            {"type": kind, "value": KEYS.get(name, name)}
            for name in names
            for kind in ("keyDown", "keyUp")
        ]
        self.post("actions", actions=[{"type": "key", "id": "keys", "actions": strokes}])

    def wait(self, script: str, *values: Any, seconds: float = 20.0) -> Any:
        """Return the first true value of a script."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script, *values)):
            assert time.monotonic() < deadline, (
                f"{script}: still false; {self.run('return document.body.innerText')}"
            )
            time.sleep(0.02)
        return value

    def resize(self, width: int, height: int) -> None:
        """Set the size of the viewport, also below the 500 pixels that a window cannot go under."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.post("goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=size)

    def picture(self, path: Path) -> None:
        shot = self.post(
            "goog/cdp/execute", cmd="Page.captureScreenshot", params={"captureBeyondViewport": True}
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def post(self, command: str, **values: Any) -> Any:
        return _ask(f"{self._base}/{command}", values)


def _ask(address: str, values: dict[str, Any] | None) -> Any:
    body = None if values is None else json.dumps(values).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=60
        ) as reply:
            return json.load(reply)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"]) from None


@contextlib.contextmanager
def start_browser(downloads: Path) -> Iterator[Browser]:
    """Start a driver on a free port and a browser that saves files in `downloads`."""
    home = downloads / "home"
    home.mkdir(parents=True)
    driver = subprocess.Popen(
        [str(DRIVER), "--port=0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(home)},
    )
    try:
        assert driver.stdout is not None
        line = next(line for line in driver.stdout if "started successfully on port" in line)
        address = f"http://127.0.0.1:{line.split()[-1].rstrip('.')}"
        options = {
            "binary": CHROMIUM,
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--mute-audio",
            ],
            "prefs": {
                "download.default_directory": str(downloads),
                "download.prompt_for_download": False,
            },
        }
        wanted = {
            "alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        }
        session = _ask(f"{address}/session", {"capabilities": wanted})["sessionId"]
        browser = Browser(address, session)
        yield browser
        request = urllib.request.Request(f"{address}/session/{session}", method="DELETE")
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=60
        ).close()
    finally:
        driver.terminate()
        driver.wait()
