"""Autoencoders of other libraries on our operations, inside their users' own training loops."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from monosem.drop_in import dictionary_learning, sae_lens, sparsify

M = TypeVar("M", bound=nn.Module)

# Of each library: what replaces the methods of its classes.
METHODS = {
    "sae_lens": sae_lens.METHODS,
    "dictionary_learning": dictionary_learning.METHODS,
    "sparsify": sparsify.METHODS,
}


def accelerate(module: M) -> M:
    """An autoencoder of SAELens, dictionary_learning or sparsify that encodes and decodes by sparse operations.

    The result is an instance of the same class with the same parameters, buffers and hooks: they are shared, so that an
    optimizer made for ``module`` trains it. Its methods take and return what the library's do; what they return as an
    array of tokens × features holds its active entries only, until something asks for all numbers. So the library's own
    loss, trainer and evaluation run as they are, and train on the same gradients, but in rounding.

    Two differences: among equal pre-activations the lowest feature is chosen, and gradients of sparsify's auxiliary
    losses reach its encoder (its own backward pass leaves them out).

    Args:
        module: the autoencoder. Where a method that would be replaced is overridden outside of the library, the module
            is refused.

    Raises:
        TypeError: no class of the three libraries, or one that is not supported. The message lists those that are.

    Example::

        trainer = TopKTrainer(...)                 # of dictionary_learning
        trainer.ae = ms.accelerate(trainer.ae)
    """
    if _is_accelerated(type(module)):
        return module
    known = next((cls for cls in type(module).__mro__ if cls.__name__ in METHODS.get(_library(cls), {})), None)
    if known is None or known is not next(cls for cls in type(module).__mro__ if _library(cls) in METHODS):
        raise TypeError(f"module: got a {_full_name(type(module))}; wanted one of {', '.join(_supported())}")
    methods = METHODS[_library(known)][known.__name__]
    for name in methods:
        owner = next(cls for cls in type(module).__mro__ if name in vars(cls))
        if _library(owner) != _library(known):
            raise TypeError(
                f"module: got a {_full_name(type(module))} with its own {name}(); wanted {known.__name__}'s"
            )
    members = {"__module__": type(module).__module__, "__doc__": type(module).__doc__, "__reduce_ex__": _reduce}
    return _with_class(module, type(type(module).__name__, (type(module),), members | methods))


def _is_accelerated(cls: type) -> bool:
    return vars(cls).get("__reduce_ex__") is _reduce


def _with_class(module: M, cls: type) -> M:
    other = cls.__new__(cls)
    other.__dict__ = dict(module.__dict__)
    return other


def _reduce(self: nn.Module, protocol: Any) -> Any:
    """Copied and pickled as the library's own module, which is accelerated afterwards."""
    return accelerate, (_with_class(self, type(self).__mro__[1]),)


def _library(cls: type) -> str:
    return cls.__module__.split(".")[0]


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _supported() -> list[str]:
    return [f"{library}: {name}" for library, classes in METHODS.items() for name in classes]
