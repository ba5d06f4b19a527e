"""Chat completions from any OpenAI-compatible endpoint: many at once, each asked for once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from monosem.data import files

T = TypeVar("T")
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # worth asking again; other errors are the user's to mend


@dataclass(frozen=True)
class Request:
    """One conversation: (role, text) messages and the most tokens the answer may have."""

    messages: tuple[tuple[str, str], ...]
    max_tokens: int

    @property
    def tokens(self) -> int:
        """About how many tokens the messages are: a third of their UTF-8 bytes, more than most tokenizers make."""
        return sum(len(text.encode()) // 3 + 4 for _, text in self.messages)


@dataclass
class Usage:
    """What was asked: ``requests`` sent and answered, ``cached`` taken from disk, tokens as the endpoint counted."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Stopped(Exception):
    """Another request failed for good while this one waited to be tried again."""


class Unusable(ValueError):
    """Raised by a parser: the answer is not of the form that was asked for."""


class Chat:
    """A model behind ``{url}/chat/completions``.

    Args:
        url: base address, with the version: ``http://localhost:8000/v1``.
        model: what the endpoint calls the model.
        cache: folder of answers, one file each, named by the hash of address, model and request. A run that was
            stopped goes on from there; a question asked before costs nothing.
        api_key: sent as a bearer token; default: the environment variable ``OPENAI_API_KEY``, if set. Never stored.
        concurrency: most requests under way at a time.
        retries: attempts after the first that failed (429, 5xx, time-outs, broken connections, broken JSON), with
            exponential backoff, or after what ``Retry-After`` says.
        timeout: seconds for one attempt.
        backoff: seconds before the first retry; doubles each time, up to 60.
        options: further fields of the request's JSON; one that is None is left out (``{"seed": None}`` for an
            endpoint that knows no seed).

    Raises:
        ImportError: httpx is not installed.
        ValueError: an argument that cannot be.
    """

    def __init__(
        self, url: str, model: str, cache: str | Path, *, api_key: str | None = None, concurrency: int = 8,
        retries: int = 6, timeout: float = 180.0, backoff: float = 1.0, options: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:  # fmt: skip
        try:
            import httpx
        except ImportError:
            raise ImportError(
                "the client for language models needs httpx; install it: pip install 'monosem[explain]'"
            ) from None
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url: got {url!r}; wanted an address such as http://localhost:8000/v1")
        if not model:
            raise ValueError("model: got none; wanted the name by which the endpoint knows the model")
        if concurrency < 1 or retries < 0 or timeout <= 0:
            raise ValueError(
                f"concurrency, retries, timeout: got {concurrency}, {retries}, {timeout}; wanted ≥ 1, ≥ 0, > 0"
            )
        self.url, self.model, self.cache = url.rstrip("/"), model, Path(cache)
        self.concurrency, self.retries, self.backoff, self.progress = concurrency, retries, backoff, progress
        self.usage, self.options = Usage(), dict(options or {})
        self._count, self._stopped = threading.Lock(), threading.Event()
        key = os.environ.get("OPENAI_API_KEY") if api_key is None else api_key
        self._http = httpx
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout,
            limits=httpx.Limits(max_connections=concurrency),
        )

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(
        self, requests: Sequence[Request], parse: Callable[[int, str], T], *, attempts: int = 3, what: str = "asking"
    ) -> list[T | None]:
        """Answers in order, each read by ``parse(number of the request, text)``.

        An answer that ``parse`` refuses (:class:`Unusable`) is asked for again, ``attempts`` times in all, each kept
        on disk under its own number; then the result is None.

        Raises:
            RuntimeError: the endpoint refuses (401, 404, …), or fails every retry. Answers so far are on disk.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        out: list[T | None] = [None] * len(requests)
        self._stopped.clear()

        def one(i: int) -> None:
            for attempt in range(attempts):
                if self._stopped.is_set():
                    return
                try:
                    out[i] = parse(i, self._complete(requests[i], attempt))
                    return
                except Unusable:
                    continue
                except _Stopped:
                    return  # what stopped it is raised where it happened
                except BaseException:
                    self._stopped.set()  # nothing more is asked, and those that wait before a retry give up
                    raise

        with tqdm(total=len(requests), desc=what, unit="request", disable=not self.progress) as bar:
            with ThreadPoolExecutor(self.concurrency) as pool:
                pending = [pool.submit(one, i) for i in range(len(requests))]
                for job in pending:
                    job.add_done_callback(lambda _: bar.update())
                try:
                    done, _ = wait(pending, return_when=FIRST_EXCEPTION)
                    for job in done:
                        job.result()
                except BaseException:
                    self._stopped.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        return out

    def cached(self, request: Request) -> bool:
        """Whether the first answer to this request is on disk."""
        return self._path(request, 0).is_file()

    def recall(self, request: Request, parse: Callable[[str], T]) -> T | None:
        """The first usable answer on disk; None without one. Never asks."""
        attempt = 0
        while (path := self._path(request, attempt)).is_file():
            try:
                return parse(_read(path))
            except ValueError:
                attempt += 1
        return None

    def _path(self, request: Request, attempt: int) -> Path:
        key = json.dumps([self.url, self._body(request, attempt)], ensure_ascii=False, sort_keys=True)
        return self.cache / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"

    def _body(self, request: Request, attempt: int) -> dict[str, Any]:
        body = {
            "model": self.model,
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            "max_tokens": request.max_tokens,
            # The first answer is the likeliest; where it was unusable, another one is wanted.
            "temperature": 0.0 if attempt == 0 else 0.7,
            "seed": attempt,
        } | self.options
        return {name: value for name, value in body.items() if value is not None}

    def _complete(self, request: Request, attempt: int) -> str:
        path = self._path(request, attempt)
        if path.is_file():
            try:
                text = _read(path)
                with self._count:
                    self.usage.cached += 1
                return text
            except ValueError:
                path.unlink(missing_ok=True)  # altered by hand, or cut short by a dying disk: ask again
        body = self._body(request, attempt)
        text, usage = self._send(body)
        files.write_text(path, json.dumps({"answer": text, "usage": usage, "request": body}, ensure_ascii=False))
        with self._count:
            self.usage.requests += 1
            self.usage.prompt_tokens += int(usage.get("prompt_tokens") or 0)
            self.usage.completion_tokens += int(usage.get("completion_tokens") or 0)
        return text

    def _send(self, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        said = ""
        for attempt in range(self.retries + 1):
            delay = min(60.0, self.backoff * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                response = self._client.post(f"{self.url}/chat/completions", json=body)
                if response.status_code == 200:
                    answer = response.json()
                    text = answer["choices"][0]["message"]["content"]
                    if isinstance(text, str):
                        usage = answer.get("usage")
                        return text, usage if isinstance(usage, dict) else {}
                    said = "an answer without text"
                elif response.status_code in _AGAIN:
                    said = f"status {response.status_code}: {_short(response.text)}"
                    delay = _retry_after(response.headers.get("retry-after"), delay)
                else:
                    raise RuntimeError(
                        f"url: {self.url} answered {response.status_code} for model {self.model!r}: "
                        f"{_short(response.text)}. Check address, model and key (OPENAI_API_KEY)."
                    )
            except self._http.TransportError as error:
                said = f"{type(error).__name__}: {error}"
            except (ValueError, KeyError, IndexError, TypeError) as error:
                said = f"an answer that is no chat completion ({type(error).__name__}: {_short(str(error))})"
            if attempt < self.retries:
                with self._count:
                    self.usage.retries += 1
                if self._stopped.wait(delay):
                    raise _Stopped
        raise RuntimeError(
            f"url: {self.url} failed {self.retries + 1} times, at last with {said}. Every answer so far is kept; run "
            "the same command again to go on."
        )


def _read(path: Path) -> str:
    """The answer in a file of the cache; ValueError if it is not one."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["answer"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path.name}: {error}") from None


def _short(text: str) -> str:
    return " ".join(text.split())[:200]


def _retry_after(header: str | None, otherwise: float) -> float:
    """Seconds to wait; a date in the header, or nonsense, counts as absent."""
    try:
        return min(300.0, max(0.0, float(header or "")))
    except ValueError:
        return otherwise


@dataclass(frozen=True)
class Estimate:
    """What a run will ask for: requests not on disk yet, tokens to read, and at most how many to write."""

    requests: int
    cached: int
    prompt_tokens: int
    completion_tokens: int

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.requests + other.requests,
            self.cached + other.cached,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def cost(self, price: tuple[float, float]) -> float:
        """In the currency of ``price``, which is per million tokens (read, written)."""
        return (self.prompt_tokens * price[0] + self.completion_tokens * price[1]) / 1e6

    def say(self, price: tuple[float, float] | None) -> str:
        text = (
            f"{self.requests:,} requests ({self.cached:,} more are answered on disk), about {self.prompt_tokens:,} "
            f"tokens to read and {self.completion_tokens:,} to write"
        )
        if price is None:
            return text + "; no price given (--price READ WRITE, per million tokens), so no cost"
        return text + f"; about {self.cost(price):,.2f} at {price[0]:g} / {price[1]:g} per million tokens"
