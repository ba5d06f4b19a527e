"""One attempt at one request: bounded in time and in bytes, whatever the other side does."""

from __future__ import annotations

import queue
import threading
import time
import zlib
from dataclasses import dataclass
from typing import Any

LARGEST = 8 << 20  # bytes of an answer, unpacked; one of 4,000 tokens is a hundredth of it


class Failed(Exception):
    """No answer came: no connection, or no end in time."""


class Odd(Exception):
    """An answer came that is no chat completion, or too much of one."""


@dataclass(frozen=True)
class Response:
    status: int
    retry_after: str | None
    body: bytes


def post(client: Any, url: str, body: dict[str, Any], timeout: float) -> Response:
    """POST ``body`` as JSON with an ``httpx.Client``; redirects are not followed, so that no key goes elsewhere.

    httpx bounds each read, not their sum. A thread of its own makes the attempt and is left behind when the time is
    over; it ends with its next byte.

    Raises:
        Failed: a transport error, or no whole answer within ``timeout`` seconds.
        Odd: more than ``LARGEST`` bytes, or packed in a way that cannot be unpacked.
    """
    import httpx

    answers: queue.SimpleQueue[Response | Exception] = queue.SimpleQueue()
    limit = time.monotonic() + timeout

    def attempt() -> None:
        try:
            answers.put(_attempt(client, url, body, limit))
        except Exception as error:  # handed over to the thread that waits
            answers.put(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        answer = None
    if answer is None or isinstance(answer, httpx.TimeoutException):  # whichever of the two clocks was first
        raise Failed(f"no whole answer within {timeout:g} s") from None
    if isinstance(answer, Response):
        return answer
    raise answer if isinstance(answer, (Failed, Odd)) else Failed(f"{type(answer).__name__}: {answer}") from None


def _attempt(client: Any, url: str, body: dict[str, Any], limit: float) -> Response:
    headers = {"Accept-Encoding": "gzip, identity"}
    with client.stream("POST", url, json=body, headers=headers, follow_redirects=False) as response:
        packing = response.headers.get("content-encoding", "identity").strip().lower()
        unpack = _Unpack(packing)
        for chunk in response.iter_raw(1 << 16):
            unpack(chunk)
            if time.monotonic() > limit:
                raise Failed("no whole answer in time")
        return Response(response.status_code, response.headers.get("retry-after"), bytes(unpack.body))


class _Unpack:
    """Collects a body and unpacks it as it comes, never more than ``LARGEST`` bytes."""

    def __init__(self, packing: str) -> None:
        if packing not in ("identity", "", "gzip", "x-gzip", "deflate"):
            raise Odd(f"an answer packed as {packing[:40]!r}, which was not asked for")
        self.body = bytearray()
        self._unzip = None if packing in ("identity", "") else zlib.decompressobj(zlib.MAX_WBITS | 32)

    def __call__(self, chunk: bytes) -> None:
        if self._unzip is not None:
            try:
                chunk = self._unzip.decompress(chunk, LARGEST + 1 - len(self.body))
            except zlib.error as error:
                raise Odd(f"an answer that cannot be unpacked ({error})") from None
        self.body += chunk
        if len(self.body) > LARGEST:
            raise Odd(f"an answer of more than {LARGEST >> 20} MiB")
