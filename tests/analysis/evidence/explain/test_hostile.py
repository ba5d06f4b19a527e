"""Endpoints that answer late, too much, nonsense, or with the key: nothing hangs, nothing leaks, nothing is fatal."""

import base64
import gzip
import json
import socket
import threading
import time

import pytest

pytest.importorskip("httpx")

from monosem.analysis.evidence.explain import post
from monosem.analysis.evidence.explain.chat import Chat, Request
from monosem.analysis.evidence.explain.secret import clean_key
from monosem.cli.explain import _object

KEY = "sk-SECRET/0123+456789"
ASK = [Request((("user", "hello"),), 5)]


def completion(text, **more):
    return json.dumps({"choices": [{"message": {"content": text}}]} | more).encode()


class Raw:
    """A server on the loopback that says ``reply(request, connection)`` to every request, byte by byte as it likes."""

    def __init__(self, reply):
        self.requests, self._reply = [], reply
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        with connection:
            request = b""
            try:
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65536)
                head, _, body = request.partition(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                while len(body) < length:
                    body += connection.recv(65536)
                self.requests.append(head + b"\r\n\r\n" + body)
                self._reply(self.requests[-1], connection)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()


def answer(body, status=200, **headers):
    """A reply of these bytes, with the request's key to put into them."""

    def reply(request, connection):
        content = body(request) if callable(body) else body
        lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(content)}", "Connection: close"]
        lines += [f"{k.replace('_', '-')}: {v}" for k, v in headers.items()]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)

    return reply


def ask(url, folder, **options):
    settings = dict(api_key=KEY, retries=1, timeout=5, backoff=0.01, progress=False) | options
    with Chat(url, "m", folder, **settings) as chat:
        return chat.ask(ASK, lambda _, answer: answer.text), chat


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b"3",
        b"<html>",
        b"",
        b"[" * 200_000,
        b'{"choices": {"0": 1}}',
        b'{"choices": [[]]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{"message": {"content": "a\\ud800b"}}]}',
        b'\xff\xfe{"choices": []}',
        b'{"n": ' + b"9" * 6000 + b"}",
        b'{"choices": [{"message": {"content": "\xe9"}}]}',
    ],
    ids=range(14),
)
def test_malformed_answers_are_unusable(tmp_path, body):
    with Raw(answer(body)) as server:
        answers, chat = ask(server.url, tmp_path)
        assert answers == [None] and chat.usage.requests == 0 and len(server.requests) == 2


@pytest.mark.parametrize(
    "usage",
    [
        "many",
        5,
        [1],
        {"prompt_tokens": "x", "completion_tokens": [1]},
        {"prompt_tokens": float("inf")},
        {"prompt_tokens": -4, "completion_tokens": True},
    ],
)
def test_malformed_token_counts_are_ignored(tmp_path, usage):
    with Raw(answer(completion("fine", usage=usage))) as server:
        answers, chat = ask(server.url, tmp_path)
    assert answers == ["fine"] and chat.usage.prompt_tokens == chat.usage.completion_tokens == 0


@pytest.mark.parametrize("concurrency", [1, 12])
def test_an_address_without_chat_completions_is_reported(tmp_path, concurrency):
    with Raw(answer(b"<html>welcome</html>")) as server:
        with Chat(
            server.url, "m", tmp_path, concurrency=concurrency, retries=0, timeout=5, backoff=0.01, progress=False
        ) as chat:
            with pytest.raises(RuntimeError, match="gave no chat completion in 10 requests"):
                chat.ask([Request((("user", str(i)),), 5) for i in range(12)], lambda _, answer: answer.text)


@pytest.mark.parametrize("packed", [False, True])
def test_oversized_answers_are_unusable(tmp_path, monkeypatch, packed):
    monkeypatch.setattr(post, "LARGEST", 100_000)
    body = completion("x" * 1_000_000)
    headers = {"content_encoding": "gzip"} if packed else {}
    with Raw(answer(gzip.compress(body) if packed else body, **headers)) as server:
        assert ask(server.url, tmp_path)[0] == [None]


def test_compressed_answers_are_read(tmp_path):
    with Raw(answer(gzip.compress(completion("fine")), content_encoding="gzip")) as server:
        assert ask(server.url, tmp_path)[0] == ["fine"]
    for encoding in ("gzip", "br"):
        with Raw(answer(b"not packed", content_encoding=encoding)) as server:
            assert ask(server.url, tmp_path / encoding)[0] == [None]


@pytest.mark.parametrize("where", ["head", "body", "silence in the body"])
def test_an_attempt_has_a_time_limit(tmp_path, where):
    def drip(_, connection):
        head = b"HTTP/1.1 200 OK\r\n" + (b"X: y\r\n" * 400 if where == "head" else b"Content-Length: 1000\r\n\r\n")
        if where != "head":
            connection.sendall(head)
        if where == "silence in the body":
            time.sleep(20)
        for byte in head if where == "head" else b" " * 1000:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    with Raw(drip) as server:
        began = time.monotonic()
        with pytest.raises(RuntimeError, match=r"no whole answer within 0\.6 s"):
            ask(server.url, tmp_path, timeout=0.6, retries=0)
        assert time.monotonic() - began < 5


def test_redirects_are_not_followed_with_the_key(tmp_path):
    with Raw(answer(completion("caught"))) as other:
        for status in (301, 302, 307, 308):
            with Raw(answer(b"", status, location=f"{other.url}/chat/completions")) as server:
                with pytest.raises(RuntimeError, match=f"answered {status}"):
                    ask(server.url, tmp_path)
        assert not other.requests


def test_a_malformed_retry_after_is_ignored(tmp_path):
    with Raw(answer(b"slow down", 429, retry_after="nan")) as server:
        with pytest.raises(RuntimeError, match="failed 2 times"):
            ask(server.url, tmp_path)


def forms(key):
    quoted = key.replace("/", "%2F").replace("+", "%2B")
    return {key, quoted, base64.b64encode(key.encode()).decode().rstrip("="), key.upper()}


def echo(request):
    """The whole request as the answer's text, and the key in other forms."""
    return completion(request.decode() + " ".join(sorted(forms(KEY))))


def leaks(text, key=KEY):
    return [form for form in forms(key) if form in text]


@pytest.mark.parametrize("status", [200, 401, 404, 500, 302])
def test_a_key_echoed_by_the_endpoint_is_not_shown_or_stored(tmp_path, status):
    with Raw(answer(echo, status)) as server:
        try:
            shown = str(ask(server.url, tmp_path)[0])
        except RuntimeError as error:
            shown = str(error) + str(error.__context__)
    assert KEY.encode() in server.requests[0]  # it was sent
    assert not leaks(shown) and not any(leaks(f.read_text()) for f in tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [{"api_key": KEY}, {"extra_headers": {"Authorization": f"Bearer {KEY}"}}, {"auth": [{"access_token": KEY}]}],
)
def test_keys_among_the_options_are_not_stored(tmp_path, options):
    with Raw(answer(echo)) as server:
        answers, chat = ask(server.url, tmp_path, api_key="", options=options | {"top_p": 0.5})
        assert json.dumps(KEY)[1:-1].encode() in server.requests[0]
        (kept,) = tmp_path.iterdir()
        assert not leaks(kept.read_text() + str(answers)) and '"top_p": 0.5' in kept.read_text()
        assert chat.cached(ASK[0])


def test_keys_in_the_address_are_not_shown(tmp_path):
    with Raw(answer(echo, 401)) as server:
        address = server.url.replace("http://", "http://user:passw0rd-long@") + f"?version=2&api-key={KEY}"
        with Chat(address, "m", tmp_path, api_key="", retries=0, timeout=5, progress=False) as chat:
            assert "passw0rd" not in chat.url and not leaks(chat.url) and "version=2" in chat.url
            with pytest.raises(RuntimeError) as error:
                chat.ask(ASK, lambda _, answer: answer.text)
        assert server.requests[0].startswith(b"POST /v1/chat/completions?version=2&api-key=")
        assert not leaks(str(error.value)) and "passw0rd" not in str(error.value)


def test_white_space_around_a_key_is_removed(tmp_path):
    with Raw(answer(completion("fine"))) as server:
        assert ask(server.url, tmp_path, api_key=f" {KEY}\r\n")[0] == ["fine"]
        assert f"Bearer {KEY}\r\n".encode() in server.requests[0]


@pytest.mark.parametrize("key", ["sk-SECRÉT-0123456789", "sk-SECRET\r\nX-Evil: 1", "sk-SEC\x00RET", "two keys"])
def test_keys_that_no_header_can_carry_are_refused_without_showing_them(tmp_path, key):
    with pytest.raises(ValueError, match="api_key: got a key \\(not shown\\)") as error:
        Chat("http://127.0.0.1:9/v1", "m", tmp_path, api_key=key, progress=False)
    assert "SEC" not in str(error.value)
    assert clean_key("") == ""


@pytest.mark.parametrize("text", [f'{{"api_key": "{KEY}"', f'["{KEY}"]', f'"{KEY}"', "[" * 100_000])
def test_refused_options_are_not_shown(text):
    import argparse

    with pytest.raises(argparse.ArgumentTypeError) as error:
        _object(text)
    assert not leaks(str(error.value)) and "wanted" in str(error.value)
