"""A dictionary of another library, in one notation; and the record of a format that reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from torch import Tensor

from monosem.data import sealed
from monosem.nn.config import JsonDict, check_number

ADVICE = "download it again"


@dataclass(frozen=True)
class Given:
    """What a caller says about a dictionary because its files do not.

    Attributes:
        k: active features per token.
        input_scale: factor that its training put on the activations.
        inputs_normalised: the caller normalises the activations of each token as its training did, and knows that
            reconstructions are normalised too; None: the caller goes by what the dictionary says.
    """

    k: int | None = None
    input_scale: float | None = None
    inputs_normalised: bool | None = False

    def __post_init__(self) -> None:
        if self.k is not None and (not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1):
            raise ValueError(f"k: got {self.k!r}; wanted a positive integer")
        if self.input_scale is not None:
            check_number("input_scale", self.input_scale, 0, above=True)


@dataclass(frozen=True, kw_only=True)
class Foreign:
    r"""``h = W_enc·(s·x − c) + b_enc``, ``f = act(h)``, ``x̂ = (W_decᵀ·f + b_dec) / s_out``, with c = b_dec or 0.

    Nothing is folded yet: these are the numbers of the file, in any floating type.

    Attributes:
        activation: "relu", "topk", "batch_topk", "jumprelu", "gated", "abs_topk" or "group_max".
        W_enc, W_dec: a row per feature: [d_sae, d_in], [d_sae, d_out].
        b_enc: [d_sae]; of "gated" the bias of the gate.
        centred: c = b_dec.
        k: of "topk", "batch_topk", "abs_topk" and "group_max".
        threshold: what h exceeds: [d_sae] of "jumprelu"; 0-dim of "batch_topk", in place of k at inference.
        r_mag, b_mag: of "gated".
        prefixes: of a Matryoshka dictionary.
        W_skip: [d_out, d_in], a linear map of x that is added to the output.
        is_transcoder: the output is another activation than the input.
        scale_in, scale_out: s and s_out, which are folded.
        by_norm: h is multiplied by the norms of the decoder rows before features are chosen, f divided by them after.
        normalisation: of the activations of each token, which cannot be folded (``data/normalised.py``); None: none.
        model, hook_name, hook_out: where the file says so; of a transcoder ``hook_out`` is what it predicts.
        context: tokens per context in training, where the file says so.
        notes: further facts of the file, for ``metadata["loaded_from"]``.
    """

    activation: str
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    centred: bool
    k: int | None = None
    threshold: Tensor | None = None
    r_mag: Tensor | None = None
    b_mag: Tensor | None = None
    prefixes: tuple[int, ...] | None = None
    W_skip: Tensor | None = None
    is_transcoder: bool = False
    scale_in: float = 1.0
    scale_out: float = 1.0
    by_norm: bool = False
    normalisation: str | None = None
    model: str | None = None
    hook_name: str | None = None
    hook_out: str | None = None
    context: int | None = None
    notes: JsonDict = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """How the dictionaries of one library lie on disk.

    Attributes:
        name: of the library or release.
        layout: its files, for messages.
        recognise: whether a folder or file is one, by names of files and of keys in them; it never raises.
        read: the dictionary in it. Raises ValueError, naming file and key, for anything that is not as it should be.
    """

    name: str
    layout: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path, Given], Foreign]


def refuse(path: Path, key: str, got: object, wanted: str) -> NoReturn:
    """ValueError for what a file holds under a key."""
    raise ValueError(f"folder: {str(path)!r}, {key}: got {got!r:.100}; wanted {wanted}")


def record_of(path: Path) -> JsonDict:
    """The JSON object in a file, for ``recognise``: empty where there is none."""
    try:
        return sealed.read_json(path, "folder", "JSON")
    except (OSError, ValueError):
        return {}


def size_of(record: JsonDict, key: str, path: Path) -> int:
    """A positive integer of a configuration."""
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        refuse(path, key, value, "a positive integer")
    return value


def number_of(record: JsonDict, key: str, path: Path) -> float:
    """A positive number of a configuration."""
    value = record.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
        refuse(path, key, value, "a positive number")
    return float(value)


def context_of(record: JsonDict, key: str) -> int | None:
    """Tokens per context of a configuration, where it says so."""
    value = record.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 1 else None


def text_of(record: JsonDict, key: str) -> str | None:
    """A string of a configuration, where it is one."""
    value = record.get(key)
    return value if isinstance(value, str) and value else None
