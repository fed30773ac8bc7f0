"""A headless Chromium that tests drive by its debugging protocol."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60
OPTIONS = (
    "--headless=new",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
    "--remote-debugging-port=0",
)


def find_chromium():
    """Path of Chromium or Chrome; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A browser with one page, as a context manager.

    Parameters
    ----------
    folder
        Empty folder for its profile.
    size
        Width and height of the page in pixels.
    """

    def __init__(self, folder, size=(1280, 800)):
        self.folder, self.size = Path(folder), size
        self.messages = []
        """Lines that pages have logged: errors, refused addresses."""

    def __enter__(self):
        width, height = self.size
        root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        options = [f"--user-data-dir={self.folder}", f"--window-size={width},{height}", *root]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [find_chromium(), *OPTIONS, *options, "about:blank"]
        self.process = subprocess.Popen(command, **silent)
        self.loop = asyncio.new_event_loop()
        self.number = 0
        try:
            self.loop.run_until_complete(self._connect())
            self.call("Page.enable")
            self.call("Runtime.enable")
            self.call("Log.enable")
            shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.call("Emulation.setDeviceMetricsOverride", **shape)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()
        self.loop.close()

    async def _connect(self):
        port_file = self.folder / "DevToolsActivePort"
        end = time.monotonic() + SECONDS
        while not (port_file.is_file() and port_file.read_text().count("\n")):
            assert self.process.poll() is None, "Chromium has ended"
            assert time.monotonic() < end, "Chromium did not start"
            await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/list")
        page = next(t for t in json.loads(answer.body) if t["type"] == "page")
        self.socket = await websocket_connect(page["webSocketDebuggerUrl"], max_message_size=2**27)

    def call(self, method, **parameters):
        """Call a method of the protocol and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}

        async def exchange():
            await self.socket.write_message(json.dumps(message))
            while True:
                answer = json.loads(await self.socket.read_message())
                if answer.get("id") == self.number:
                    return answer
                self._note(answer)

        answer = self.loop.run_until_complete(asyncio.wait_for(exchange(), SECONDS))
        assert "error" not in answer, answer
        return answer["result"]

    def _note(self, event):
        parameters = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.messages.append(parameters["exceptionDetails"]["text"])
        elif event["method"] == "Log.entryAdded":
            self.messages.append(parameters["entry"]["text"])

    def open(self, url):
        """Load a page."""
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, script):
        """Return the value of an expression in the page."""
        options = {"returnByValue": True, "awaitPromise": True}
        result = self.call("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script):
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + SECONDS
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"never true: {script}"
            self.loop.run_until_complete(asyncio.sleep(0.02))
        return value

    def mouse(self, kind, x, y, **more):
        """Send an event of the mouse: Moved, Pressed or Released."""
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def key(self, key, code=0):
        """Press and release a key."""
        for kind in ("rawKeyDown", "keyUp"):
            names = {"key": key, "code": key, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", type=kind, **names)

    def screenshot(self, path):
        """Write what the page shows as a PNG file."""
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
