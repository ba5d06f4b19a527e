"""Chat completions from any OpenAI-compatible endpoint: concurrent, each request sent once, answers cached on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from monosem.analysis.evidence.explain.completion import ALTERNATIVES, Answer, read_completion
from monosem.analysis.evidence.explain.post import Failed, Odd, post
from monosem.analysis.evidence.explain.secret import Hide, clean_key, public, public_url, secrets_of
from monosem.data import sealed

T = TypeVar("T")
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # worth asking again; other errors are the user's to mend
_TOO_LONG = {400, 413, 422}  # with these words, a request that is longer than the context of the model:
_CONTEXT = re.compile(r"(?i)context[ _]?(length|size|window)|exceeds? the context|prompt is too long")
_NO_ENDPOINT = 10  # requests without one chat completion among their answers: something else answers there


@dataclass(frozen=True)
class Request:
    """One conversation: (role, text) messages, the most tokens the answer may have, whether with log-probabilities."""

    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    logprobs: bool = False

    @property
    def tokens(self) -> int:
        """About how many tokens the messages are: half of their UTF-8 bytes, more than most tokenizers make.

        Of arrays of short tokens they make one of 2.2 bytes (SmolLM2), of prose one of 4.
        """
        return sum(len(text.encode()) // 2 + 4 for _, text in self.messages)


PROBE = Request((("user", "Is the sky blue? Answer with one word: yes or no."),), 8, logprobs=True)


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


class TooLong(Exception):
    """The context of the model has no room for the request and its answer."""


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
        self.unusable: dict[str, Counter[str]] = {}
        self._count, self._stopped = threading.Lock(), threading.Event()
        self._asking: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
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
        self,
        requests: Sequence[Request],
        parse: Callable[[int, Answer], T],
        *,
        attempts: int = 3,
        what: str = "asking",
        too_long: Callable[[int], T | None] | None = None,
    ) -> list[T | None]:
        """Answers in order, each read by ``parse(number of the request, answer)``.

        An answer that ``parse`` refuses (:class:`Unusable`) is requested again, ``attempts`` times in all, each kept
        on disk under its own number; then the result is None. So is that of a request which gets no chat completion,
        however often it is tried. ``unusable[what]`` counts the refused answers by reason.

        Args:
            too_long: the result of a request that the context of the model has no room for; an error where it is None.

        Raises:
            RuntimeError: the endpoint refuses (401, 404, …), fails every retry, gives no chat completion at all, or
                has too short a context. Answers so far are on disk.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        out: list[T | None] = [None] * len(requests)
        self._stopped.clear()

        def one(i: int) -> None:
            for attempt in range(attempts):
                if self._stopped.is_set():
                    return
                try:
                    answer = self._complete(requests[i], attempt)
                    try:
                        out[i] = parse(i, answer)
                        return
                    except Unusable as error:
                        self._refused(what, str(error), answer)
                except _NoCompletion:
                    return
                except TooLong as error:
                    out[i] = None if too_long is None else too_long(i)
                    if out[i] is None:
                        self._stopped.set()
                        raise RuntimeError(self._no_room(requests[i], str(error))) from None
                    return
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

    def _no_room(self, request: Request, reason: str) -> str:
        return (
            f"url: {self.url} has no room for a request in the context of model {self.model!r}: {reason}. Start the "
            f"server with a longer context; {request.tokens + request.max_tokens:,} tokens are enough"
        )

    def _refused(self, what: str, reason: str, answer: Answer) -> None:
        """Count an answer that could not be read.

        Raises:
            TooLong: it ended where the context of the model did.
        """
        if answer.cut == "context":
            raise TooLong("the answer was cut off where the context ended")
        with self._count:
            reason += " (cut off at the most tokens it may have)" if answer.cut else ""
            self.unusable.setdefault(what, Counter())[reason] += 1

    def offers_logprobs(self) -> tuple[bool, str]:
        """Whether answers come with log-probabilities, and how that shows. Asks a question of a few tokens.

        Raises:
            RuntimeError: the endpoint answers nothing at all.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        self._stopped.clear()
        try:
            told = self._complete(PROBE, 0).told
        except (RuntimeError, TooLong, Unusable) as error:
            with suppress(Unusable):  # it has no chat completions at all: the first question will say so
                self._complete(replace(PROBE, logprobs=False), 0)  # raises if it is not for them that nothing came
            return False, f"the endpoint refuses requests for log-probabilities: {self._short(str(error))}"
        return told, "the endpoint gives log-probabilities" if told else "the endpoint gives no log-probabilities"

    def known_logprobs(self) -> bool | None:
        """What :meth:`offers_logprobs` found, if its answer is on disk. Never asks."""
        return self.recall(PROBE, lambda answer: answer.told)

    def cached(self, request: Request) -> bool:
        """Whether the first answer to this request is on disk."""
        return self._path(request, 0).is_file()

    def recall(self, request: Request, parse: Callable[[Answer], T]) -> T | None:
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
        }
        if request.logprobs:
            body |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
        body |= self.options
        return {name: value for name, value in body.items() if value is not None}

    def _complete(self, request: Request, attempt: int) -> Answer:
        path = self._path(request, attempt)
        with self._count:
            asking = self._asking[path]
        with asking:  # the same question at the same time is asked once
            return self._kept_or_asked(path, request, attempt)

    def _kept_or_asked(self, path: Path, request: Request, attempt: int) -> Answer:
        if path.is_file():
            try:
                answer = _read(path)
                with self._count:
                    self.usage.cached += 1
                return answer
            except ValueError:
                path.unlink(missing_ok=True)  # altered by hand, or cut short by a dying disk: ask again
        body = self._body(request, attempt)
        answer, usage = self._send(body)
        kept = answer.to_dict() | {"usage": usage, "request": public(body)}
        sealed.write(path, json.loads(self._hide(json.dumps(kept, ensure_ascii=False))), indent=None)
        with self._count:
            self.usage.requests += 1
            self.usage.prompt_tokens += usage["prompt_tokens"]
            self.usage.completion_tokens += usage["completion_tokens"]
        return answer

    def _send(self, body: dict[str, Any]) -> tuple[Answer, dict[str, int]]:
        said, odd = "", False
        for attempt in range(self.retries + 1):
            delay = min(60.0, self.backoff * 2**attempt) * random.uniform(0.5, 1.0)
            odd = False
            try:
                response = post(self._client, self._address, body, self.timeout)
                whole = response.body.decode(errors="replace")
                said = f"status {response.status}: {self._short(whole)}"
                if response.status == 200:
                    answer, usage = read_completion(
                        response.body, body.get("max_tokens") or body.get("max_completion_tokens")
                    )
                    text = self._hide(answer.text)
                    # A key that is spread over tokens cannot be found in them.
                    return (answer if text == answer.text else replace(answer, text=text, tokens=None)), usage
                if response.status in _TOO_LONG and _CONTEXT.search(whole):
                    raise TooLong(said.partition(": ")[2])
                if response.status not in _AGAIN or ("logprobs" in body and "logprob" in whole.lower()):
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


def _read(path: Path) -> Answer:
    """The answer in a file of the cache; ValueError if it is not one."""
    return Answer.from_dict(sealed.read(path, "cache", "an answer", note=False)[0])


def _retry_after(header: str | None, otherwise: float) -> float:
    """Seconds to wait; a date in the header, or nonsense, counts as absent."""
    try:
        seconds = float(header or "")
    except ValueError:
        return otherwise
    return min(300.0, max(0.0, seconds)) if math.isfinite(seconds) else otherwise
