"""The kinds of autoencoders by name, for files, the command line, benchmarks and the reproduction."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, fields
from typing import TypeVar, cast

import torch

from monosem.nn.base import SAE
from monosem.nn.config import SAEConfig
from monosem.nn.drawing import Undrawn

KINDS: dict[str, type[SAE]] = {}
Kind = TypeVar("Kind", bound=type[SAE])


def register(cls: Kind) -> Kind:
    """A class decorator: make this kind known by the name ``cls.Config.kind``.

    ``cls.Config`` is a frozen dataclass on ``SAEConfig``. ``cls(**fields of Config, seed=…, device=…, dtype=…)`` makes
    one; ``seed`` may be left out. A module that is run again may register its class again.

    Raises:
        TypeError: not a subclass of ``SAE``, or without a ``Config`` that names its kind.
        ValueError: another class has this name.
    """
    if not (isinstance(cls, type) and issubclass(cls, SAE)):
        raise TypeError(f"register: got {cls!r}; wanted a subclass of monosem.SAE")
    config = getattr(cls, "Config", None)
    if not (isinstance(config, type) and issubclass(config, SAEConfig) and config.kind):
        raise TypeError(
            f"register: {cls.__name__}.Config is {config!r}; wanted a frozen dataclass on monosem.SAEConfig with "
            "`kind: ClassVar[str]`, the name in files and on the command line"
        )
    other = KINDS.get(config.kind, cls)
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"register: kind {config.kind!r} is {other.__module__}.{other.__qualname__} already; wanted a new name for "
            f"{cls.__module__}.{cls.__qualname__}. Choose another Config.kind."
        )
    KINDS[config.kind] = cls
    return cls


def find(kind: str) -> type[SAE]:
    """The class of a kind. Raises ValueError, with the kinds there are, for one that is not registered."""
    if kind not in KINDS:
        raise ValueError(
            f"kind: got {kind!r}; wanted one of {', '.join(KINDS)}. A kind of your own has to be registered first: "
            "import the module that calls monosem.register (`--import MODULE`)."
        )
    return KINDS[kind]


def import_modules(names: Iterable[str]) -> None:
    """Import the modules that register kinds. Raises ValueError for one that is not there."""
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # a module that this one needs
            raise ValueError(
                f"import: no module {name!r}; wanted one that Python can import. Put its folder on PYTHONPATH, or "
                "install it."
            ) from None


def build(
    config: SAEConfig,
    seed: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    drawn: bool = True,
) -> SAE:
    """The autoencoder of a configuration.

    Args:
        drawn: False: no random numbers are drawn for its weights, which the caller sets. Of wide dictionaries that
            takes longer than to read them from a file.
    """
    seeded = {} if seed is None else {"seed": seed}
    make = cast("Callable[..., SAE]", find(config.kind))  # the arguments differ from kind to kind
    with nullcontext() if drawn else Undrawn():
        return make(**asdict(config), **seeded, device=device, dtype=dtype)


def configure(kind: str, d_in: int, d_sae: int, **offered: object) -> SAEConfig:
    """The configuration of a kind with those of the offered settings that it has."""
    make = cast("Callable[..., SAEConfig]", find(kind).Config)
    return make(d_in, d_sae, **setting(kind, **offered))


def setting(kind: str, **offered: object) -> dict[str, object]:
    """Those of the offered settings (``k``, ``l1_coefficient``, …) that this kind has a field for."""
    known = {f.name for f in fields(find(kind).Config)}
    return {name: value for name, value in offered.items() if name in known}
