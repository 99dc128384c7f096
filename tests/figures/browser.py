"""Headless Chromium, driven through its pipe: JSON messages ended by a NUL byte on file descriptors 3 (to it) and 4 (from it)."""

import json
import os
import select
import shutil
import subprocess
import time

BINARY = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
DEADLINE = 30.0                                                                # seconds for one answer


class Browser:
    """One page. ``send`` calls a method of the DevTools protocol on it; ``errors`` are what its console complained of."""

    def __init__(self, profile):
        self.errors, self._count, self._buffer, self._session = [], 0, b"", None
        to_browser, ours_to = os.pipe()
        ours_from, from_browser = os.pipe()
        # The shell puts the two ends on 3 and 4, whatever numbers they have here.
        command = f"exec {BINARY} --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe " \
                  f"--user-data-dir='{profile}' about:blank 3<&{to_browser} 4>&{from_browser}"
        self.process = subprocess.Popen(["bash", "-c", command], pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self._to, self._from = ours_to, ours_from
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters) -> dict:
        """The result of one call."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda told: told.get("id") == self._count)
        assert "error" not in answer, f"{method}: {answer['error']['message']}"
        return answer["result"]

    def open(self, path) -> None:
        """Load a file, to the end."""
        self.send("Page.navigate", url=f"file://{path}")
        self._wait(lambda told: told.get("method") == "Page.loadEventFired")

    def run(self, expression: str):
        """The value of JavaScript in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]["exception"].get("description")
        return answer["result"].get("value")

    def point(self, x: float, y: float, click: bool = False) -> None:
        """Move the pointer there, and press."""
        for kind in ("mouseMoved", *(("mousePressed", "mouseReleased") if click else ())):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left" if click else "none", clickCount=int(click))

    def click(self, selector: str) -> None:
        """Click the middle of the first such element, as a person does."""
        self.point(*self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
                             " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"), click=True)

    def close(self) -> None:
        os.close(self._to)
        os.close(self._from)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait(self, wanted) -> dict:
        """The next message that is wanted; errors on the way are kept."""
        end = time.monotonic() + DEADLINE
        while True:
            while b"\0" not in self._buffer:
                assert select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0], "Chromium does not answer"
                read = os.read(self._from, 1 << 20)
                assert read, "Chromium has ended"
                self._buffer += read
            line, _, self._buffer = self._buffer.partition(b"\0")
            told = json.loads(line)
            self._note(told)
            if wanted(told):
                return told

    def _note(self, told: dict) -> None:
        about = told.get("params", {})
        if told.get("method") == "Runtime.exceptionThrown":
            self.errors.append(about["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        if told.get("method") == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"])
        if told.get("method") == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            self.errors.append(str(about["args"]))
