"""The number of a feature on a page: one way to write it, and one place where it becomes a link.

A section writes :func:`feature` where it names a feature and :func:`place` where it shows one. :func:`link` turns the
names into links when the page is put together: to the browser of features (`monosem features`) of that dictionary where
one is known, else to the place on the page that shows the feature, else nowhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from html import escape, unescape
from pathlib import Path
from urllib.parse import quote

_OPEN = re.compile(r'<a class="(feature|home)" data-of="([^"]*)" data-number="(\d+)">')


def feature(number: int, of: str = "", shown: str | None = None, home: bool = False) -> str:
    """The number of a feature as HTML (in SVG too).

    Args:
        of: which dictionary, where a page shows several; "" is the page's own.
        shown: HTML to show instead of ``#12``.
        home: this is in the feature's own :func:`place`, so that only the browser is worth a link.
    """
    kind = "home" if home else "feature"
    return f'<a class="{kind}" data-of="{escape(of)}" data-number="{number}">{shown or f"#{number}"}</a>'


def belonging(body: str, of: str) -> str:
    """HTML in which the numbers of the page's own dictionary are those of ``of``."""
    return body.replace(' data-of="" data-number="', f' data-of="{escape(of)}" data-number="')


def place(number: int, of: str = "") -> str:
    """The attribute of the element that shows a feature: where links to it lead. Once a page for each feature."""
    return f'id="{_anchor(of, str(number))}"'


def plain(text: str, dictionaries: Mapping[str, str]) -> str:
    """Plain text as HTML, with :func:`feature` for each ``#12``, and ``#12 of B`` where B is a dictionary."""
    names = {escape(name, quote=False): name for name in sorted(dictionaries, key=len, reverse=True) if name}
    ending = f"( of (?:{'|'.join(map(re.escape, names))}))?(?![\\w/])" if names else "()"
    return re.sub(
        rf"#(\d+){ending}",
        lambda match: feature(int(match[1]), names.get((match[2] or "")[4:], "")) + (match[2] or ""),
        escape(text, quote=False),
    )


def link(page: str, dictionaries: Mapping[str, str]) -> str:
    """The page with an address for every number that :func:`feature` wrote.

    Args:
        dictionaries: {``of``: address of its browser of features, "" where none is known}.
    """

    def one(match: re.Match[str]) -> str:
        home, of, number = match[1] == "home", unescape(match[2]), match[3]
        browser, anchor = dictionaries.get(of, ""), _anchor(of, number)
        if browser:
            return f'<a class="feature" href="{escape(browser)}#{number}">'
        here = not home and f'id="{anchor}"' in page
        return f'<a class="feature" href="#{anchor}">' if here else '<a class="feature">'

    return _OPEN.sub(one, page)


def browser(out: str | Path, *folders: str | Path) -> str:
    """The address, from a page in ``out``, of the first of these folders' browser of features; "" where there is none.

    A folder is a dictionary's (its browser is in ``features/``) or the browser's own.
    """
    for folder in folders:
        for page in (Path(folder) / "features" / "index.html", Path(folder) / "index.html"):
            if page.is_file() and (page.parent / "data" / "summary.js").is_file():
                try:
                    return quote(Path(os.path.relpath(page.resolve(), Path(out).resolve())).as_posix())
                except ValueError:  # on another drive
                    return page.resolve().as_uri()
    return ""


def _anchor(of: str, number: str) -> str:
    return f"feature-{re.sub(r'[^A-Za-z0-9]+', '-', of)}-{number}"
