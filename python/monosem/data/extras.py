"""Packages that are not installed with monosem, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

# Of another name than the package.
_EXTRA = {"pyarrow": "data", "datasets": "data", "sklearn": "analysis", "upath": "remote"}


def needed(package: str, why: str) -> Any:
    """The module of a package.

    Raises:
        ImportError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # a package that this one needs
        raise ImportError(
            f"{why}; wanted the package {package}, which is not installed. Install it with "
            f"`pip install 'monosem[{_EXTRA.get(package, package)}]'`."
        ) from None
