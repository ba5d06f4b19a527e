"""A headless Chromium driven over its debugging pipe: enough to open pages from disk and work in them."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BINARY = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
THEMES = ("light", "dark")


class Chromium:
    """The browser's process. ``tab`` opens a page of its own in it; ``folder`` is for its profile."""

    def __init__(self, folder: Path) -> None:
        to_read, self._write = os.pipe()  # Chromium reads commands from 3 and writes answers to 4
        self._read, to_write = os.pipe()
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}",
            "--hide-scrollbars",
            "about:blank",
        ]
        shell = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the process
        self._process = subprocess.Popen(
            ["bash", "-c", shell, str(BINARY), *flags], pass_fds=(to_read, to_write), stderr=self._said
        )
        os.close(to_read)
        os.close(to_write)
        self._number, self._buffer = itertools.count(1), b""
        self.events: list[dict[str, Any]] = []

    @contextmanager
    def tab(self, *, theme: str = "light", size: tuple[int, int] = (1280, 900)) -> Iterator[Tab]:
        """A page that shares no storage with any other."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Tab(self, context, session)
        for domain in ("Page", "Runtime", "Log", "DOM"):
            page.call(f"{domain}.enable")
        page.size(*size)
        page.theme(theme)
        try:
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)
            self.events = [e for e in self.events if e.get("sessionId") != session]

    def call(self, method: str, session: str | None = None, timeout: float = 60.0, **params: Any) -> dict[str, Any]:
        number = next(self._number)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        try:
            os.write(self._write, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise self._ended() from None
        limit = time.monotonic() + timeout
        while True:
            answer = self._next(limit)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self, limit: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0.0, limit - time.monotonic()))[0]:
                raise TimeoutError("Chromium did not answer")
            chunk = os.read(self._read, 1 << 16)
            if not chunk:
                raise self._ended()
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _ended(self) -> RuntimeError:
        self._said.seek(0)
        return RuntimeError(f"{BINARY} ended: {self._said.read()[-2000:].decode(errors='replace')}")

    def close(self) -> None:
        try:
            self.call("Browser.close", timeout=10)
        except (RuntimeError, TimeoutError, OSError):
            self._process.kill()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)
        self._said.close()

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Tab:
    """One page. ``run`` evaluates JavaScript in it and raises what that throws; ``errors`` are the page's own."""

    def __init__(self, browser: Chromium, context: str, session: str) -> None:
        self._browser, self._context, self._session = browser, context, session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def theme(self, name: str) -> None:
        """The reader's colour scheme: ``light`` or ``dark``."""
        assert name in THEMES
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, path: Path, fragment: str = "") -> None:
        url = path.resolve().as_uri() + (f"#{fragment}" if fragment else "")
        self.call("Page.navigate", url="about:blank")  # the same address with another fragment would load nothing
        self.wait("location.protocol === 'about:'")
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        return answer["result"].get("value")

    def count(self, selector: str) -> int:
        return self.run(f"document.querySelectorAll({json.dumps(selector)}).length")

    def wait(self, condition: str, seconds: float = 60.0) -> None:
        limit = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > limit:
                raise TimeoutError(f"never true: {condition}")
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """A key as the user presses it."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def upload(self, selector: str, path: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def downloads_to(self, folder: Path) -> None:
        self._browser.call(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder), browserContextId=self._context
        )

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def lexical_names(self) -> list[str]:
        """Names that scripts of the page declare globally by ``const``, ``let`` and ``class``."""
        return self.call("Runtime.globalLexicalScopeNames")["names"]

    def errors(self) -> list[str]:
        """Errors since the last call: uncaught exceptions, errors and warnings of the console, files that could not
        be loaded."""
        self.run("new Promise((done) => setTimeout(done))")  # pending events are then reported
        mine = [e for e in self._browser.events if e.get("sessionId") == self._session]
        self._browser.events = [e for e in self._browser.events if e.get("sessionId") != self._session]
        return [complaint for event in mine if (complaint := _complaint(event["method"], event["params"]))]


def _complaint(method: str, params: dict[str, Any]) -> str | None:
    if method == "Runtime.exceptionThrown":
        details = params["exceptionDetails"]
        return details.get("exception", {}).get("description") or details["text"]
    if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
        return " ".join(str(a.get("value", a.get("description"))) for a in params["args"])
    if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        return f"{params['entry']['text']} {params['entry'].get('url', '')}".strip()
    return None
