"""A page in a real browser: headless Chromium, through its DevTools protocol.

Belongs here: starting it, opening a page, and asking it. Debian's package `chromium` brings it.
Does not belong here: what a page should do.
"""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import websocket

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0", "about:blank"),
)
SECONDS = 60


@contextlib.contextmanager
def started():
    """Start Chromium with an empty profile.

    Yields:
        Function `open_page(path, width=1280, height=900, **media)` that opens a file and returns a `Page`.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"]
        browser = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            told, last = Path(profile) / "DevToolsActivePort", time.monotonic() + SECONDS
            # A line with the port, then one with a path.
            while not told.is_file() or "\n" not in told.read_text():
                assert time.monotonic() < last and browser.poll() is None, "Chromium did not start"
                time.sleep(0.05)
            port = told.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=SECONDS) as answer:
                target = next(target for target in json.load(answer) if target["type"] == "page")
            address = target["webSocketDebuggerUrl"]
            connection = websocket.create_connection(address, timeout=SECONDS, suppress_origin=True)
            with contextlib.closing(connection):
                yield lambda *words, **more: Page(connection, *words, **more)
        finally:
            browser.kill()
            browser.wait()


class Page:
    """An open page.

    Args:
        connection: to the browser's tab, which shows one page after the other.
        path: HTML file.
        width, height: of the window, in CSS pixels.
        media: features of the medium, such as `prefers_color_scheme="dark"`.

    `complaints` lists what the console showed as errors and warnings, and exceptions; `requested` what was loaded.
    """

    numbers = itertools.count(1)

    def __init__(self, connection, path, width=1280, height=900, **media):
        self.connection, self.complaints, self.requested, self.loaded = connection, [], [], False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.complaints, self.requested, self.loaded = [], [], False
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        while not self.loaded:
            self._hear(json.loads(self.connection.recv()))

    def call(self, method, **parameters):
        """Call a method of the protocol and return its result."""
        number = next(Page.numbers)
        self.connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (heard := json.loads(self.connection.recv())).get("id") != number:
            self._hear(heard)
        assert "error" not in heard, heard
        return heard["result"]

    def _hear(self, event):
        method, told = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requested.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown" or (
            method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning")
        ):
            self.complaints.append(told)
        elif method == "Log.entryAdded":
            self.complaints.append(told["entry"])

    def ask(self, expression):
        """Evaluate JavaScript and return its value."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key):
        """Press and release `Tab` or `Enter`."""
        code, text = {"Tab": (9, ""), "Enter": (13, "\r")}[key]
        more = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", **more)

    def write(self, text):
        """Type text where the focus is."""
        self.call("Input.insertText", text=text)

    def picture(self, path):
        """Take a picture of the whole page as a PNG file."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        Path(path).write_bytes(base64.b64decode(data))
