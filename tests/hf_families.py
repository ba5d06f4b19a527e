"""Tiny models of many families of transformers, with random weights: one of each way to compute logits."""

from dataclasses import dataclass

import torch

D = 32
TOKENS = torch.randint(1, 300, (2, 12), generator=torch.Generator().manual_seed(0))
_SMALL = dict(
    vocab_size=300,
    hidden_size=D,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=0,
    eos_token_id=0,
)
_OLDER = dict(vocab_size=300, num_hidden_layers=2, num_attention_heads=4, hidden_size=D, bos_token_id=0, eos_token_id=0)
_GEMMA = _SMALL | dict(head_dim=8)


@dataclass(frozen=True)
class Family:
    """A configuration, and where the parts of layer 1 are.

    Attributes:
        mlp: the module whose output is added to the residual stream.
        projection: the module of W_out; "" where a norm is behind it.
    """

    settings: dict
    layer: str = "model.layers.1"
    mlp: str = "model.layers.1.mlp"
    projection: str = "model.layers.1.mlp.down_proj"


_NORMED = dict(mlp="model.layers.1.post_feedforward_layernorm", projection="")
FAMILIES = {
    "Llama": Family(_SMALL),
    "Qwen2": Family(_SMALL | dict(tie_word_embeddings=True)),
    "Qwen3": Family(_GEMMA),
    "Gemma": Family(_GEMMA),  # gain 1 + weight
    # Norms behind the layers too, and a soft cap of the logits.
    "Gemma2": Family(_GEMMA | dict(query_pre_attn_scalar=8, final_logit_softcapping=5.0), **_NORMED),
    "Gemma3Text": Family(_GEMMA | dict(query_pre_attn_scalar=8), **_NORMED),
    "Nemotron": Family(_SMALL),  # LayerNorm of gain 1 + weight
    "Olmo": Family(_SMALL),  # LayerNorm without weights
    "Olmo2": Family(_SMALL, **_NORMED),
    "Cohere": Family(_SMALL | dict(logit_scale=0.25)),  # logits times a number; attention and MLP side by side
    # Logits over a number; outputs times another.
    "Granite": Family(_SMALL | dict(logits_scaling=4.0, residual_multiplier=0.3)),
    "GPTNeoX": Family(
        _OLDER | dict(intermediate_size=48, max_position_embeddings=64),
        layer="gpt_neox.layers.1",
        mlp="gpt_neox.layers.1.mlp",
        projection="gpt_neox.layers.1.mlp.dense_4h_to_h",
    ),
    "Bloom": Family(  # an MLP that adds the residual stream to its output itself
        _OLDER,
        layer="transformer.h.1",
        mlp="transformer.h.1.mlp.dense_4h_to_h",
        projection="transformer.h.1.mlp.dense_4h_to_h",
    ),
    "OPT": Family(  # rows of the MLP laid end to end
        _SMALL | dict(ffn_dim=48, word_embed_proj_dim=D),
        layer="model.decoder.layers.1",
        mlp="model.decoder.layers.1.fc2",
        projection="model.decoder.layers.1.fc2",
    ),
    "GPT2": Family(
        dict(vocab_size=300, n_embd=D, n_layer=2, n_head=4, n_positions=64, n_inner=48, bos_token_id=0, eos_token_id=0),
        layer="transformer.h.1",
        mlp="transformer.h.1.mlp",
        projection="transformer.h.1.mlp.c_proj",
    ),
}


def random_model(kind: str, dtype: torch.dtype = torch.float32, **settings) -> torch.nn.Module:
    """A model of a family, gains of norms between 0.1 and 0.9."""
    import transformers

    cfg = getattr(transformers, f"{kind}Config")(**(settings or FAMILIES[kind].settings))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(cfg).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.rand_like(p) * 0.8 + 0.1 if p.ndim == 1 else torch.randn_like(p) * 0.15)
    return model.to(dtype)
