"""The parts of a language model of any family, found by one forward pass over a few tokens.

A module's name does not tell what its output is for: ``post_attention_layernorm`` is added to the residual stream in
Gemma 2 and read by the MLP in Llama. The sums of the residual stream tell: of the outputs within a layer, two together
are what the layer adds. The unembedding reads the final norm, and the final norm the last layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from monosem.data.adapter import BEFORE_UNEMBED
from monosem.data.places import Place, by_token, input_of, output_of
from monosem.data.probes import tolerance


@dataclass
class Structure:
    """Where one vector per token stands, and TransformerLens' names for it.

    Attributes:
        widths: {name of a place: width}, in the order in which the forward pass comes to the modules.
        names: {TransformerLens' hook name: place}, layer by layer.
        n_layers: of the residual stream; 0 where none was found.
        is_causal: whether a token leaves what the unembedding reads before it as it is.
        final_norm: the module between the last layer and the unembedding; "" where there is none; None: unknown.
        mlp_out: {layer: the module whose weight matrix reads ``mlp.hook_post``}.
    """

    widths: dict[str, int] = field(default_factory=dict)
    names: dict[str, Place] = field(default_factory=dict)
    n_layers: int = 0
    is_causal: bool = False
    final_norm: str | None = None
    mlp_out: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Call:
    """One call of a module: copies of what went in and came out, None where that is not one vector per token."""

    name: str
    module: nn.Module
    input: Tensor | None
    output: Tensor | None


@torch.no_grad()
def find(root: nn.Module, run: Callable[[], Any], shape: torch.Size, embedding: Any, unembedding: Any) -> Structure:
    """The structure of a model.

    Args:
        run: a forward pass over tokens of this shape: two rows that differ in their last token.
        embedding, unembedding: those modules, if there are any.
    """
    calls = _record(root, run, shape)
    found = Structure()
    for call in calls.values():
        for tensor, place in ((call.input, Place(call.name, True)), (call.output, Place(call.name))):
            if tensor is not None:
                found.widths[str(place)] = tensor.flatten(2).shape[-1]
    by_module = {id(call.module): call for call in calls.values()}
    embedded, end = by_module.get(id(embedding)), by_module.get(id(unembedding))
    if embedded is not None and embedded.output is not None:
        found.names["hook_embed"] = Place(embedded.name)
    layers = _stack(root, calls)
    found.n_layers = len(layers)
    for number, name in enumerate(layers):
        _name_layer(found, calls, number, name)
    if layers:
        _name_end(found, calls, layers, end)
    if end is not None and end.input is not None:
        found.is_causal = _is_causal(end.input)
        found.names[BEFORE_UNEMBED] = Place(end.name, True)
    return found


def _record(root: nn.Module, run: Callable[[], Any], shape: torch.Size) -> dict[str, _Call]:
    """The calls of every module that is called once, in the order in which they begin."""
    inputs: dict[str, Tensor | None] = {}
    outputs: dict[str, Tensor | None] = {}
    modules, twice, handles = {}, set(), []

    def copy(value: Tensor | None) -> Tensor | None:
        value = None if value is None else by_token(value, shape)
        return None if value is None else value.detach().to("cpu", copy=True)  # what follows may change it in place

    def before(name: str) -> Callable:
        def at(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            if name in inputs:
                twice.add(name)
            inputs[name] = copy(input_of(args, kwargs))

        return at

    def after(name: str) -> Callable:
        def at(_module: nn.Module, _args: tuple, output: Any) -> None:
            outputs[name] = copy(output_of(output))

        return at

    try:
        for name, module in root.named_modules():
            if name:
                modules[name] = module
                handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
                handles.append(module.register_forward_hook(after(name)))
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {n: _Call(n, modules[n], inputs[n], outputs.get(n)) for n in inputs if n not in twice}


def _stack(root: nn.Module, calls: dict[str, _Call]) -> list[str]:
    """The layers: the longest list of modules each of which reads what the one before it gave."""
    longest: list[str] = []
    for name, module in root.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        layers = [f"{name}.{i}" for i in range(len(module))]
        sides = [(calls[layer].input, calls[layer].output) for layer in layers if layer in calls]
        if len(sides) < len(layers) or any(x is None or y is None or x.shape != y.shape for x, y in sides):
            continue
        if len(layers) > len(longest) and all(_equal(before, after) for (_, before), (after, _) in pairwise(sides)):
            longest = layers
    return longest


def _is_causal(value: Tensor) -> bool:
    """Whether the two rows, which differ in their last token, are the same before it, but for rounding."""
    before = value[:, :-1].double()
    return float((before[0] - before[1]).abs().max()) <= tolerance(value.dtype) * float(before.abs().max())


def _name_layer(found: Structure, calls: dict[str, _Call], number: int, layer: str) -> None:
    whole, at = calls[layer], f"blocks.{number}."
    pre, post = whole.input, whole.output
    assert pre is not None and post is not None  # of a stack
    inside = [call for call in calls.values() if call.name.startswith(layer + ".")]
    names = {"hook_resid_pre": Place(layer, True)}
    added = _added(inside, pre, post)
    if added is not None:
        (attn, mlp), factor = added
        if (heads := _projection(inside, attn)) is not None and heads.input is not None:
            names["attn.hook_z"] = Place(heads.name, True)
        names["hook_attn_out"] = Place(attn.name)
        mid = next((c for c in inside if _is_sum(c.input, [pre, factor * _of(attn)])), None)
        if mid is not None:
            names["hook_resid_mid"] = Place(mid.name, True)
        if (projection := _projection(inside, mlp)) is not None and projection.input is not None:
            names |= _before_activation(inside, projection)
            names["mlp.hook_post"] = Place(projection.name, True)
            found.mlp_out[number] = projection.name
        names["hook_mlp_out"] = Place(mlp.name)
    names["hook_resid_post"] = Place(layer)
    found.names |= {at + name: place for name, place in names.items()}


def _name_end(found: Structure, calls: dict[str, _Call], layers: list[str], end: _Call | None) -> None:
    last = calls[layers[-1]]
    if end is None or end.input is None:
        return
    if _equal(last.output, end.input):
        found.final_norm = ""
        return
    stack = layers[0].rpartition(".")[0] + "."
    for call in calls.values():
        if _equal(call.input, last.output) and _equal(call.output, end.input) and not call.name.startswith(stack):
            found.final_norm = call.name
            found.names |= {"ln_final.hook_in": Place(call.name, True), "ln_final.hook_out": Place(call.name)}
            return


def _added(inside: list[_Call], pre: Tensor, post: Tensor) -> tuple[tuple[_Call, _Call], float] | None:
    """The two outputs within a layer that are added to the stream, and the factor on them."""
    outputs: list[_Call] = []
    # Of equal outputs (a block, its last matrix, a dropout behind it) the outermost that came first.
    for call in sorted((c for c in inside if c.output is not None), key=lambda c: c.name.count(".")):
        if _of(call).shape == post.shape and not any(_equal(call.output, other.output) for other in outputs):
            outputs.append(call)
    order = {call.name: i for i, call in enumerate(inside)}
    for pair in combinations(sorted(outputs, key=lambda c: order[c.name]), 2):
        both = _of(pair[0]).double() + _of(pair[1]).double()
        fitted = float(((post.double() - pre.double()) * both).sum() / both.square().sum().clamp_min(1e-300))
        for factor in (1.0, fitted):
            if _is_sum(post, [pre, *(factor * _of(call) for call in pair)]):
                return pair, factor
    return None


def _projection(inside: list[_Call], part: _Call) -> _Call | None:
    """The module with the weight matrix that makes a part's output; a norm may follow it."""
    matrices = [c for c in inside if getattr(getattr(c.module, "weight", None), "ndim", 0) == 2]
    for output in (part.output, part.input if not list(part.module.children()) else None):
        for call in matrices:
            if output is not None and _equal(call.output, output):
                return call
    return None


def _before_activation(inside: list[_Call], projection: _Call) -> dict[str, Place]:
    """What the activation function of an MLP reads, and the factor of a gated one, by TransformerLens' names."""
    beside, width = projection.name.rpartition(".")[0] + ".", _of_input(projection).shape
    wide = [
        c.name
        for c in inside
        if c.name.startswith(beside) and getattr(getattr(c.module, "weight", None), "ndim", 0) == 2
        if c.output is not None and c.output.shape == width
    ]
    if len(wide) == 1:
        return {"mlp.hook_pre": Place(wide[0])}
    gates = [name for name in wide if "gate" in name.removeprefix(beside)]
    if len(wide) == 2 and len(gates) == 1:
        (other,) = set(wide) - set(gates)
        return {"mlp.hook_pre": Place(gates[0]), "mlp.hook_pre_linear": Place(other)}
    return {}


def _is_sum(total: Tensor | None, parts: list[Tensor]) -> bool:
    """Whether a tensor is the sum of others but for the rounding of a few additions in its dtype."""
    if total is None or any(part.shape != total.shape for part in parts):
        return False
    exact = torch.stack([part.double() for part in parts])
    bound = 2 * torch.finfo(total.dtype).eps * (exact.abs().sum(0) + total.double().abs())
    return bool(((total.double() - exact.sum(0)).abs() <= bound).all())


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.shape == b.shape and torch.equal(a, b)


def _of(call: _Call) -> Tensor:
    assert call.output is not None  # of the outputs of a layer
    return call.output


def _of_input(call: _Call) -> Tensor:
    assert call.input is not None  # of a projection
    return call.input
