"""The name of a text: a file, several, or a dataset of the Hub, with the columns and the part of it that are read."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote

SAMPLE = "sample"  # the shipped text, in which rare kinds are rare
RICH = "sample:rich"  # shipped too: more of the rare kinds, for looking at examples
HUB = "hf:"  # before the name of a dataset
_OPTIONS = re.compile(r"\?(?=[a-z_]+=)")


@dataclass(frozen=True)
class TextSpec:
    """``PLACE?option=value&…``.

    Attributes:
        place: a path, a folder, a pattern (``data/*.parquet``), ``"sample"``, ``"sample:rich"``, or ``hf:`` and the
            name of a dataset.
        column, source: names of the columns of the text and of its label.
        rows: only so many rows, the first (of each file).
        name: of a dataset: its configuration.
        split: of a dataset: ``train`` unless told otherwise.
        revision: of a dataset: a branch, a tag or a commit.
        streaming: of a dataset: whether rows are fetched as they are read; false: all are fetched first.
    """

    place: str
    column: str = "text"
    source: str = "source"
    rows: int | None = None
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    streaming: bool = True

    @property
    def of_hub(self) -> bool:
        return self.place.startswith(HUB)

    @property
    def reads_plainly(self) -> bool:
        """Whether nothing but the place is given."""
        return self == TextSpec(self.place)

    def __str__(self) -> str:
        default = TextSpec(self.place)
        given = {f.name: getattr(self, f.name) for f in fields(self)[1:]}
        told = [f"{n}={_written(v)}" for n, v in given.items() if v != getattr(default, n)]
        return self.place + ("?" + "&".join(told) if told else "")

    def absolute(self) -> TextSpec:
        """The same from any folder."""
        if self.of_hub or self.place in (SAMPLE, RICH):
            return self
        return replace(self, place=str(Path(self.place).resolve()))


def parse(text: str | Path) -> TextSpec:
    """The parts of a name.

    Raises:
        ValueError: an option that is not known, or a value that it does not take.
    """
    whole = str(text)
    found = None if isinstance(text, Path) else _OPTIONS.search(whole)
    place, query = (whole, "") if found is None else (whole[: found.start()], whole[found.end() :])
    of_hub, given = place.startswith(HUB), dict(parse_qsl(query, keep_blank_values=True))
    known = [f.name for f in fields(TextSpec)[1:]]
    if not of_hub:
        known = ["column", "source", "rows"]
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"text: {whole!r}: got the option {name!r}; wanted {', '.join(known)}")
        if not value:
            raise ValueError(f"text: {whole!r}: got no value for {name!r}; wanted {name}=VALUE")
    values: dict[str, object] = dict(given)
    if "rows" in given:
        if not given["rows"].isdecimal() or int(given["rows"]) < 1:
            raise ValueError(f"text: {whole!r}: got rows={given['rows']}; wanted a number of rows, at least 1")
        values["rows"] = int(given["rows"])
    if "streaming" in given:
        if given["streaming"] not in ("true", "false"):
            raise ValueError(f"text: {whole!r}: got streaming={given['streaming']}; wanted true or false")
        values["streaming"] = given["streaming"] == "true"
    if of_hub and place == HUB:
        raise ValueError(f"text: {whole!r} names no dataset; wanted hf:OWNER/NAME, or hf:FOLDER of a saved one")
    return TextSpec(place, **values)  # pyright: ignore[reportArgumentType]  # checked above


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else quote(str(value), safe="/:-_. ")
