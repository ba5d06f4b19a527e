"""Keys of endpoints: read so that no message shows them, hidden in whatever is kept or printed."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

HIDDEN = "[hidden]"
# Names of fields whose values are secrets; `max_tokens` and `logit_bias` are none.
_NAMES = re.compile(
    r"(?i)(api.?key|^key$|_key$|authorization|secret|passw|credential|bearer|(auth|access|api).?token|^token$)"
)
_SHORTEST = 6  # a shorter value would be hidden wherever its letters stand


def clean_key(key: str, what: str = "api_key") -> str:
    """The key without blanks around it, such as the newline at the end of a file.

    Raises:
        ValueError: it has characters that no HTTP header can carry. The message does not show it.
    """
    key = key.strip()
    if not all("!" <= c <= "~" for c in key):
        raise ValueError(
            f"{what}: got a key (not shown) with a blank, a control character or a letter outside ASCII; wanted "
            "printable ASCII without blanks. Was more than the key copied?"
        )
    return key


def secrets_of(options: Any, named: bool = False) -> set[str]:
    """Strings at any depth of the request's options whose field is named like a key."""
    if isinstance(options, Mapping):
        return set().union(*(secrets_of(v, named or bool(_NAMES.search(str(k)))) for k, v in options.items()))
    if isinstance(options, (list, tuple)):
        return set().union(*(secrets_of(v, named) for v in options))
    return {options} if named and isinstance(options, str) else set()


def public(options: Any, named: bool = False) -> Any:
    """The options with secrets replaced."""
    if isinstance(options, Mapping):
        return {k: public(v, named or bool(_NAMES.search(str(k)))) for k, v in options.items()}
    if isinstance(options, (list, tuple)):
        return [public(v, named) for v in options]
    return HIDDEN if named and isinstance(options, str) else options


def public_url(url: str) -> tuple[str, set[str]]:
    """The address without user, password and keys of its query; and those."""
    parts = urlsplit(url)
    secrets = {unquote(s) for s in (parts.username, parts.password) if s}
    host = parts.netloc.rpartition("@")[2]
    query = []
    for field in filter(None, parts.query.split("&")):
        name, _, value = field.partition("=")
        if value and _NAMES.search(name):
            secrets.add(unquote(value))
            field = f"{name}={HIDDEN}"
        query.append(field)
    return urlunsplit((parts.scheme, host, parts.path, "&".join(query), "")), secrets


class Hide:
    """``hide(text)``: the text with every secret replaced, also as JSON, URLs and base64 write it."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        for secret in {s for whole in secrets for s in (whole, whole.strip(), *whole.split())}:
            if len(secret) >= _SHORTEST:
                forms |= {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}
                for before in ("", "Bearer "):
                    code = base64.b64encode((before + secret).encode("utf-8", "replace")).decode().rstrip("=")
                    forms |= {code, code.replace("+", "-").replace("/", "_")}
        longest_first = sorted(forms - {"Bearer", "Basic"}, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if longest_first else None

    def __call__(self, text: str) -> str:
        return self._any.sub(HIDDEN, text) if self._any else text
