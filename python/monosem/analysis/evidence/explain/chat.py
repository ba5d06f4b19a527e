"""Chat completions from any OpenAI-compatible endpoint: concurrent, each request sent once, answers cached on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from monosem.analysis.evidence.explain.post import Failed, Odd, post, read_completion
from monosem.analysis.evidence.explain.secret import Hide, clean_key, public, public_url, secrets_of
from monosem.data import sealed

T = TypeVar("T")
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # worth asking again; other errors are the user's to mend
_NO_ENDPOINT = 10  # requests without one chat completion among their answers: something else answers there


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
    """Raised by a parser: the answer does not have the requested form."""


class _NoCompletion(Unusable):
    """None came in any attempt; asking in other words would not help."""


class Chat:
    """A model behind ``{url}/chat/completions``.

    Args:
        url: base address, with the version: ``http://localhost:8000/v1``.
        model: what the endpoint calls the model.
        cache: folder of answers, one file each, named by the hash of address, model and request. A run that was
            stopped goes on from there; a question asked before costs nothing.
        api_key: sent as a bearer token; default: the environment variable ``OPENAI_API_KEY``, if set. Neither it nor
            keys in ``url`` or ``options`` are ever stored, printed, or sent to another address.
        concurrency: most requests under way at a time.
        retries: attempts after the first that failed (429, 5xx, time-outs, broken connections, broken JSON), with
            exponential backoff, or after what ``Retry-After`` says.
        timeout: seconds for one attempt, from connecting to the last byte of the answer.
        backoff: seconds before the first retry; doubles each time, up to 60.
        options: further fields of the request's JSON; one that is None is left out (``{"seed": None}`` for an
            endpoint that knows no seed).

    Raises:
        ImportError: httpx is not installed.
        ValueError: an argument that cannot be.
    """

    def __init__(
        self,
        url: str,
        model: str,
        cache: str | Path,
        *,
        api_key: str | None = None,
        concurrency: int = 8,
        retries: int = 6,
        timeout: float = 180.0,
        backoff: float = 1.0,
        options: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
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
        address, mark, query = url.partition("?")
        self._address = f"{address.rstrip('/')}/chat/completions{mark}{query}"
        self.url, hidden = public_url(address.rstrip("/") + mark + query)
        self.model, self.cache, self.timeout = model, Path(cache), timeout
        self.concurrency, self.retries, self.backoff, self.progress = concurrency, retries, backoff, progress
        self.usage, self.options = Usage(), dict(options or {})
        self._count, self._stopped = threading.Lock(), threading.Event()
        key = clean_key(os.environ.get("OPENAI_API_KEY", "") if api_key is None else api_key)
        self._hide = Hide({key} | hidden | secrets_of(self.options))
        self._odd = 0
        # An attempt that was given up may hold its connection for a while: the number of them is bounded by us.
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout,
            limits=httpx.Limits(max_connections=None),
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

        An answer that ``parse`` refuses (:class:`Unusable`) is requested again, ``attempts`` times in all, each kept
        on disk under its own number; then the result is None. So is that of a request which gets no chat completion,
        however often it is tried.

        Raises:
            RuntimeError: the endpoint refuses (401, 404, …), fails every retry, or gives no chat completion at all.
                Answers so far are on disk.
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
                except _NoCompletion:
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
        key = json.dumps([self.url, public(self._body(request, attempt))], ensure_ascii=False, sort_keys=True)
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
        kept = {"answer": text, "usage": usage, "request": public(body)}
        sealed.write(path, json.loads(self._hide(json.dumps(kept, ensure_ascii=False))), indent=None)
        with self._count:
            self.usage.requests += 1
            self.usage.prompt_tokens += usage["prompt_tokens"]
            self.usage.completion_tokens += usage["completion_tokens"]
        return text

    def _send(self, body: dict[str, Any]) -> tuple[str, dict[str, int]]:
        said, odd = "", False
        for attempt in range(self.retries + 1):
            delay = min(60.0, self.backoff * 2**attempt) * random.uniform(0.5, 1.0)
            odd = False
            try:
                response = post(self._client, self._address, body, self.timeout)
                said = f"status {response.status}: {self._short(response.body.decode(errors='replace'))}"
                if response.status == 200:
                    text, usage = read_completion(response.body)
                    return self._hide(text), usage
                if response.status not in _AGAIN:
                    raise RuntimeError(
                        f"url: {self.url} answered {response.status} for model {self.model!r}: "
                        f"{said.partition(': ')[2]}. Check address, model and key (OPENAI_API_KEY)."
                    )
                delay = _retry_after(response.retry_after, delay)
            except Failed as error:
                said = self._short(str(error))
            except Odd as error:
                said, odd = self._short(str(error)), True
            if attempt < self.retries:
                with self._count:
                    self.usage.retries += 1
                if self._stopped.wait(delay):
                    raise _Stopped
        if odd:
            self._none_again(said)
            raise _NoCompletion(said)
        raise RuntimeError(
            f"url: {self.url} failed {self.retries + 1} times, at last with {said}. Every answer so far is kept; run "
            "the same command again to resume."
        )

    def _none_again(self, reason: str) -> None:
        """Count a request that got no chat completion.

        Raises:
            RuntimeError: it is the last of ``_NO_ENDPOINT``, and none before it got one either.
            _Stopped: the error was raised for a request that ran at the same time.
        """
        with self._count:  # the flag is set under the lock, so that one request raises and the count is exact
            if self._stopped.is_set():
                raise _Stopped
            self._odd += 1
            if self._odd >= _NO_ENDPOINT and not self.usage.requests:
                self._stopped.set()
                raise RuntimeError(
                    f"url: {self.url} gave no chat completion in {self._odd} requests, at last {reason}. Check the "
                    "address; it ends with the version, such as http://localhost:8000/v1."
                )

    def _short(self, text: str) -> str:
        return " ".join(self._hide(text).split())[:200]


def _read(path: Path) -> str:
    """The answer in a file of the cache; ValueError if it is not one."""
    answer = sealed.read(path, "cache", "an answer", note=False)[0].get("answer")
    if not isinstance(answer, str):
        raise ValueError(f"{path.name}: its answer is no text")
    return answer


def _retry_after(header: str | None, otherwise: float) -> float:
    """Seconds to wait; a date in the header, or nonsense, counts as absent."""
    try:
        seconds = float(header or "")
    except ValueError:
        return otherwise
    return min(300.0, max(0.0, seconds)) if math.isfinite(seconds) else otherwise


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
