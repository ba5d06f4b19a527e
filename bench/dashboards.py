"""SAEDashboard and delphi on a dictionary of monosem, through ``sae.dense()``.

    PYTHONPATH=python PYTHON bench/dashboards.py RUN --out OUT --only sae_dashboard
    PYTHONPATH=python PYTHON bench/dashboards.py RUN --out OUT --only delphi

PYTHON is that of ``bench/environments.py sae_bench`` with the library added, without what it requires and does not
import here (docs/howto/export.md).

* ``sae_dashboard``: its own runner on a dictionary of one of monosem's own models, and the page that it writes.
* ``delphi``: its own cache of activations and its own examples of each latent, on a dictionary of a model of
  transformers. Its explanations need a language model and were left out.

Both are compared with what monosem computes on the same tokens.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import monosem as ms

LIBRARIES = ("sae_dashboard", "delphi")


def rows_of(model: Any, args: argparse.Namespace) -> Tensor:
    """Tokens [contexts, n_ctx] of the held-out text."""
    documents = ms.documents(args.text, "held_out")
    return torch.as_tensor(ms.pack_rows(documents, model, args.context).tokens[: args.contexts]).long()


def sae_dashboard(sae: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The page of some features, and the greatest difference from our activations."""
    from sae_dashboard.data_writing_fns import save_feature_centric_vis
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner
    from sae_lens.saes.topk_sae import TopK

    from monosem.data.models import as_transformer_lens

    view, hook = sae.dense(unit_rows=True).eval(), sae.metadata["hook_name"]
    model = ms.load_model(sae.metadata["model"])
    tokens = rows_of(model, args)
    # It encodes a few features at a time by cutting the parameters of SAELens' classes, except where a dictionary says
    # that its activations depend on each other: then it encodes all of them, which is the interface of any.
    view.activation_fn = TopK(getattr(sae.cfg, "k", None) or view.cfg.d_sae)
    view.hook_z_reshaping_mode = False
    view.fold_W_dec_norm = lambda: None  # the rows of the view have unit norm
    features = list(range(args.features))
    config = SaeVisConfig(hook_point=hook, features=features, minibatch_size_tokens=16, verbose=False)
    data = SaeVisRunner(config).run(encoder=view, model=as_transformer_lens(model), tokens=tokens)
    page = args.out / "sae_dashboard.html"
    save_feature_centric_vis(sae_vis_data=data, filename=page)
    ours = sae.dense(unit_rows=True).encode(model.activations(tokens, hook))[..., features].detach()
    differences = []
    for f in features:
        for group in data.feature_data_dict[f].sequence_data.seq_group_data:
            for shown in group.seq_data:  # as many tokens before one place of a context as behind it
                first = shown.qualifying_token_index - len(shown.feat_acts) // 2
                mine = ours[shown.original_index, first : first + len(shown.feat_acts), f]
                differences.append(float((torch.tensor(shown.feat_acts) - mine).abs().max()))
    return {
        "version": version("sae-dashboard"),
        "features": len(features),
        "sequences": len(differences),
        "largest_difference": max(differences),
        "largest_activation": float(ours.max()),
        "page_bytes": page.stat().st_size,
    }


def delphi(sae: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Its cache of activations against ours, and the examples that it makes of that."""
    from delphi.config import CacheConfig, ConstructorConfig, SamplerConfig
    from delphi.latents import LatentCache, LatentDataset

    model: Any = ms.load_model(sae.metadata["model"])  # of transformers
    tokens, hook = rows_of(model, args), sae.metadata["hook_name"]
    view, folder = sae.dense(unit_rows=True).eval(), args.out / "delphi"
    cache = LatentCache(model.module, {hook: view.encode}, batch_size=4)
    cache.run(tokens.numel(), tokens)
    cache.save_splits(n_splits=2, save_dir=folder)
    cache.save_config(folder, CacheConfig(cache_ctx_len=args.context), sae.metadata["model"])
    theirs = torch.zeros(*tokens.shape, sae.cfg.d_sae)
    theirs[cache.cache.latent_locations[hook].T.unbind()] = cache.cache.latent_activations[hook]
    ours = view.encode(model.activations(tokens, hook).float()).detach()
    sampled = SamplerConfig(n_examples_train=5, n_examples_test=5, n_quantiles=5)
    made = ConstructorConfig(example_ctx_len=args.context, min_examples=10, n_non_activating=5)
    records = list(LatentDataset(folder, sampled, made, tokenizer=model.tokenizer, modules=[hook]))
    shown = {r.latent.latent_index: max(float(e.max_activation) for e in r.examples) for r in records}
    return {
        "version": version("eai-delphi"),
        "tokens": tokens.numel(),
        "cached": len(cache.cache.latent_activations[hook]),
        "largest_difference": float((theirs - ours).abs().max()),
        "latents_with_examples": len(records),
        "largest_difference_of_maxima": max(abs(m - float(ours[..., f].max())) for f, m in shown.items()),
        "largest_activation": float(ours.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="RUN")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=LIBRARIES, default=LIBRARIES, metavar="LIBRARY")
    parser.add_argument("--text", default="sample", help="as of `monosem evaluate`")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--contexts", type=int, default=32)
    parser.add_argument("--features", type=int, default=16, help="features shown by SAEDashboard")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sae = ms.load(args.folder)
    for name in args.only:
        print(json.dumps({name: {"sae_dashboard": sae_dashboard, "delphi": delphi}[name](sae, args)}))


if __name__ == "__main__":
    main()
