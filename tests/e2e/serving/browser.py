"""A headless Chromium, driven over WebDriver (https://www.w3.org/TR/webdriver2/) by Debian's chromedriver."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key that the standard gives elements
PATIENCE = 20.0  # seconds
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Right": "\ue014", "Left": "\ue012", "Down": "\ue015", "Home": "\ue011"}
KEYS |= {"End": "\ue010", "Space": " ", "Shift": "\ue008"}

needs_a_browser = pytest.mark.skipif(
    DRIVER is None or BROWSER is None,
    reason="no browser: chromium and chromedriver are not on PATH (Debian: apt-get install chromium chromium-driver)",
)


class Browser:
    """One window."""

    def __init__(self, http: httpx2.Client, session: str) -> None:
        self._http, self._session = http, session

    def _call(self, method: str, path: str, **body: Any) -> Any:
        answer = self._http.request(method, f"/session/{self._session}/{path}", json=body if method == "POST" else None)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value

    def open(self, url: str) -> Self:
        self._call("POST", "url", url=url)
        return self

    def resize(self, width: int, height: int) -> None:
        """Give the window another size, in pixels."""
        self._call("POST", "window/rect", width=width, height=height)

    def run(self, script: str, *arguments: Any) -> Any:
        return self._call("POST", "execute/sync", script=script, args=list(arguments))

    def press(self, *keys: str) -> None:
        """Press and release keys, one after the other, wherever the focus is; text stands for its characters."""
        presses = [KEYS[key]] if (key := keys[0]) in KEYS else list(key)
        actions = [{"type": kind, "value": one} for one in presses for kind in ("keyDown", "keyUp")]
        self._call("POST", "actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])
        if keys[1:]:
            self.press(*keys[1:])

    def find(self, selector: str) -> str:
        return str(self._call("POST", "element", using="css selector", value=selector)[ELEMENT])

    def click(self, selector: str) -> None:
        self._call("POST", f"element/{self.find(selector)}/click")

    def role(self, selector: str) -> str:
        """The role that a screen reader is told."""
        return str(self._call("GET", f"element/{self.find(selector)}/computedrole"))

    def label(self, selector: str) -> str:
        """The name that a screen reader is told."""
        return str(self._call("GET", f"element/{self.find(selector)}/computedlabel"))

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def wait_for(self, script: str) -> Any:
        """Wait until a script returns something that counts as true."""
        until = time.monotonic() + PATIENCE
        while not (found := self.run(script)):
            assert time.monotonic() < until, f"it did not happen: {script}; status: {self.text('#status')}"
            time.sleep(0.02)
        return found

    def screenshot(self) -> str:
        """PNG in base64."""
        return str(self._call("GET", "screenshot"))

    def log(self) -> list[dict[str, Any]]:
        """What the page wrote to the console since the last call, complaints of the browser included."""
        found: list[dict[str, Any]] = self._call("POST", "se/log", type="browser")
        return found


@contextmanager
def browsing(profile: Path, *, is_dark: bool = False) -> Iterator[Browser]:
    """A browser with an empty profile."""
    assert DRIVER is not None
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{_port(driver)}", timeout=60) as http:
            session = http.post("/session", json={"capabilities": {"alwaysMatch": _capabilities(profile, is_dark)}})
            assert session.status_code == 200, session.text
            browser = session.json()["value"]["sessionId"]
            yield Browser(http, browser)
            http.delete(f"/session/{browser}")
    finally:
        driver.terminate()
        driver.wait(10)
        assert driver.stdout is not None
        driver.stdout.close()


def _port(driver: subprocess.Popen[str]) -> int:
    assert driver.stdout is not None
    for line in driver.stdout:
        if "started successfully on port" in line:
            return int(line.rstrip(".\n").rpartition(" ")[2])
    raise AssertionError("chromedriver did not start")


def _capabilities(profile: Path, is_dark: bool) -> dict[str, Any]:
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-background-networking",
        "--disable-gpu",
        "--disable-dev-shm-usage",
    ]
    flags += [f"--user-data-dir={profile}", "--window-size=1000,1300", "--no-first-run", "--disable-sync"]
    flags += ["--disable-component-update", "--disable-default-apps", "--metrics-recording-only"]
    if is_dark:
        flags.append("--blink-settings=preferredColorScheme=0")
    return {"goog:chromeOptions": {"args": flags, "binary": BROWSER}, "goog:loggingPrefs": {"browser": "ALL"}}
