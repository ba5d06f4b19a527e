"""A stand-in for Hugging Face's server, and a process that asks it: huggingface_hub reads its settings at import."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[tuple[str, Callable[[], None]]]:
    """(address of a server, a function that takes it off the network)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    try:
        yield f"http://127.0.0.1:{server.server_port}", stop
    finally:
        stop()


_PROGRAM = """
import json, sys, monosem as ms
for question in map(json.loads, sys.stdin):
    try:
        print({answer}, flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


@contextmanager
def asking(answer: str, endpoint: str, home: Path) -> Iterator[Callable[..., list[str]]]:
    """A function from questions to lines: of ``answer``, an expression in ``question``, or of the error that it raises.

    All are answered by one process with its own token and cache.
    """
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "HF_TOKEN": "hf_test"}
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "*"}
    words = [sys.executable, "-c", _PROGRAM.format(answer=answer)]
    with subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(*questions: object) -> list[str]:
            print(*map(json.dumps, questions), sep="\n", file=process.stdin, flush=True)
            return [process.stdout.readline().removesuffix("\n") for _ in questions]

        yield ask
        process.stdin.close()
        assert process.stdout.read() == "" and process.wait() == 0, "one line per question"
