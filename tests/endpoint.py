"""An OpenAI-compatible endpoint on the loopback interface, with the failures of real ones."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def _chat(given: Alternatives) -> dict[str, Any]:
    entry = lambda token, p: {"token": token, "logprob": p, "bytes": None}
    content = [entry(t, a[t]) | {"top_logprobs": [entry(*pair) for pair in a.items()]} for t, a in given]
    return {"content": content, "refusal": None}


def _completion(given: Alternatives) -> dict[str, Any]:
    return {
        "text_offset": [0] * len(given),
        "tokens": [t for t, _ in given],
        "token_logprobs": [a[t] for t, a in given],
        "top_logprobs": [a for _, a in given],
    }


Alternatives = list[tuple[str, dict[str, float]]]
FORMS = {"chat": _chat, "completion": _completion}


class Endpoint:
    """Answers ``POST /v1/chat/completions``.

    Args:
        answer: from the request's body to the text of the answer; to (text, alternatives of each of its tokens), as
            [(token, {token: log-probability}), …]; or to (status, error), as a server refuses.
        ailments: what happens to the first requests, one each: a status (429, 500, 401 …), ``"hang"`` (no answer in
            time), ``"drop"`` (the connection is cut), ``"html"`` (200, no JSON), ``"empty"`` (JSON without choices).
        form: of the log-probabilities: ``"chat"`` as OpenAI and llama-cpp-python 0.3.36 send them,
            ``"completion"`` as older servers do, for requests that ask for them.
    """

    def __init__(
        self, answer: Callable[[dict[str, Any]], Any], ailments: tuple = (), delay: float = 0.0, form: str = "chat"
    ) -> None:
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
                text, given = answer(body), None
                if isinstance(text, tuple):
                    text, given = text
                if isinstance(text, int):
                    return self._send(text, json.dumps({"error": given}).encode())
                choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                if given and body.get("logprobs"):
                    choice["logprobs"] = FORMS[form](given)
                content = {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}
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


def oracle(body):
    """A model that knows: numbers after a dollar sign 9, other numbers 2; it answers in each of the asked forms."""
    text = body["messages"][-1]["content"]
    if "Description of the detector" not in text:
        return "Prices.\nDESCRIPTION: numbers, above all after $"
    lines = re.findall(r"^(\d+): (.+)$", text, re.M)
    if "Predict its level" in text:
        levels = {
            n: [(9 if i and t[i - 1] == "$" else 2) if w.isdigit() else 0 for i, w in enumerate(t)]
            for n, t in ((n, json.loads(line)) for n, line in lines)
        }
        return json.dumps(levels)
    if "come next" in text:
        return str([int(n) for n, line in lines if json.loads(line).isdigit()])
    if "marked" in text:
        return str([int(n) for n, line in lines if all(w[1:-1].isdigit() for w in json.loads(line) if w[0] == "«")])
    return str([int(n) for n, line in lines if any(w.isdigit() for w in json.loads(line))])


def full(size):
    """An endpoint with a context of so many characters, which answers as llama-cpp-python 0.3.36 does."""

    def answer(body):
        text = body["messages"][-1]["content"]
        if len(text) <= size:
            return text.upper()
        said = "This model's maximum context length is 2048 tokens. However, you requested 4014 tokens"
        return 400, {"message": said, "type": "invalid_request_error", "code": "context_length_exceeded"}

    return answer
