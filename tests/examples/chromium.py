"""A browser without a window, driven over a pipe (Chrome DevTools Protocol)."""

import base64
import contextlib
import functools
import http.server
import json
import os
import select
import shutil
import subprocess
import threading
import time

SECONDS = 300


def find():
    """Return the path of Chromium or Chrome, or `None`."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


@contextlib.contextmanager
def served(folder):
    """Serve a folder on this machine; give its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Page:
    """One page of a browser."""

    def __init__(self, profile):
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        flags = "--headless=new --no-sandbox --disable-gpu --window-size=820,900"
        self._process = subprocess.Popen(
            [
                "bash", "-c",
                f'exec "$0" {flags} --user-data-dir="$1" --remote-debugging-pipe about:blank '
                f"3<&{to_browser} 4>&{from_browser}",
                find(), str(profile),
            ],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._received, self._number, self._session = b"", 0, None
        deadline = time.monotonic() + SECONDS
        pages = []
        while not pages and time.monotonic() < deadline:
            targets = self.send("Target.getTargets")["targetInfos"]
            pages = [target for target in targets if target["type"] == "page"]
        attached = self.send("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = attached["sessionId"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def send(self, method, **params):
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while True:
            while b"\0" not in self._received:
                if not select.select([self._in], [], [], max(0, deadline - time.monotonic()))[0]:
                    raise TimeoutError(f"the browser did not answer {method}")
                part = os.read(self._in, 1 << 16)
                if not part:
                    raise RuntimeError(f"the browser ended at {method}")
                self._received += part
            text, self._received = self._received.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def evaluate(self, expression):
        """Return the value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, expression):
        """Wait until an expression is true, and return its value."""
        deadline = time.monotonic() + SECONDS
        while not (value := self.evaluate(expression)):
            if time.monotonic() > deadline:
                raise TimeoutError(expression)
            time.sleep(0.1)
        return value

    def draw(self, selector, points):
        """Draw a line of points, in fractions of an element's sides, with the mouse."""
        box = self.evaluate(
            f"(({{left, top, width, height}}) => ({{left, top, width, height}}))"
            f"(document.querySelector('{selector}').getBoundingClientRect())"
        )
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 2), "mouseReleased"]
        for kind, (x, y) in zip(kinds, points, strict=True):
            self.send(
                "Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1,
                x=box["left"] + x * box["width"], y=box["top"] + y * box["height"],
            )  # fmt: skip

    def screenshot(self, path):
        """Write what the page looks like as a PNG file."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
