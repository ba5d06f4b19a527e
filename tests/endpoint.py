"""An OpenAI-compatible endpoint on the loopback interface, with the failures of real ones."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Endpoint:
    """Answers ``POST /v1/chat/completions``.

    Args:
        answer: from the request's body to the text of the answer.
        ailments: what happens to the first requests, one each: a status (429, 500, 401 …), ``"hang"`` (no answer in
            time), ``"drop"`` (the connection is cut), ``"html"`` (200, no JSON), ``"empty"`` (JSON without choices).
    """

    def __init__(self, answer: Callable[[dict[str, Any]], str], ailments: tuple = (), delay: float = 0.0) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._now = 0
        self._ailments = list(ailments)
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    outer.bodies.append(body)
                    outer.headers.append({k.lower(): v for k, v in self.headers.items()})
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                    ailment = outer._ailments.pop(0) if outer._ailments else None
                try:
                    time.sleep(delay)
                    self._reply(body, ailment)
                finally:
                    with lock:
                        outer._now -= 1

            def _reply(self, body: dict[str, Any], ailment: Any) -> None:
                if self.path != "/v1/chat/completions":
                    return self._send(404, b'{"error": "no such path"}')
                if ailment == "drop":
                    self.close_connection = True
                    return self.connection.close()
                if ailment == "hang":
                    time.sleep(3.0)
                if isinstance(ailment, int):
                    return self._send(
                        ailment, b'{"error": "ailing"}', {"Retry-After": "0.01"} if ailment == 429 else {}
                    )
                if ailment == "html":
                    return self._send(200, b"<html>maintenance</html>")
                if ailment == "empty":
                    return self._send(200, b'{"choices": []}')
                content = {
                    "choices": [{"message": {"role": "assistant", "content": answer(body)}}],
                    "usage": {"prompt_tokens": 100, "completion_tokens": 10},
                }
                self._send(200, json.dumps(content).encode())

            def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
                try:
                    self.send_response(status)
                    for name, value in (headers or {}).items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client did not wait

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
