"""SAEBench without its evaluations: the functions that ``bench/saebench.py`` calls, by SAEBench's names and parameters.

They reject parameters that SAEBench 0.6 does not have, read of the dictionary what it reads, and write results where it
writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch


class _Config:
    """A configuration, which takes fields that SAEBench's own has."""

    fields = ""

    def __init__(self, **fields: Any) -> None:
        assert fields.keys() <= set(self.fields.split()), fields
        self.__dict__.update(fields)


class SparseProbingEvalConfig(_Config):
    fields = """random_seed dataset_names probe_train_set_size probe_test_set_size context_length sae_batch_size
        llm_batch_size llm_dtype model_name k_values lower_vram_usage"""


class SparseProbingSaeProbesEvalConfig(_Config):
    fields = """model_name random_seed dataset_names reg_type setting ks binarize results_path model_cache_path
        include_llm_baseline baseline_method"""


def _write(folder: str, name: str, metrics: dict[str, Any], sae: Any) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    record = {"eval_result_metrics": metrics, "sae_cfg_dict": sae.cfg.to_dict()}
    (Path(folder) / f"{name}_eval_results.json").write_text(json.dumps(record), encoding="utf-8")


class _Model:
    """What SAEBench loads when nobody gives it a model."""

    @staticmethod
    def from_pretrained(name: str, **options: Any) -> Any:
        raise OSError(f"no network for {name}")

    from_pretrained_no_processing = from_pretrained


class StandIn:
    """The modules by name, for ``sys.modules``, and what they were called with."""

    def __init__(self) -> None:
        self.calls: dict[str, dict[str, Any]] = {}
        self.lens = ModuleType("transformer_lens")
        self.lens.HookedTransformer = type("HookedTransformer", (_Model,), {})
        evals = "sae_bench.evals"
        names = ["core", "core.main", "sparse_probing", "sparse_probing.main", "sparse_probing.eval_config"]
        names += [f"sparse_probing_sae_probes{part}" for part in ("", ".main", ".eval_config")]
        self.modules = {name: ModuleType(name) for name in ("sae_bench", evals, *(f"{evals}.{n}" for n in names))}
        self.modules["transformer_lens"] = self.lens
        for name, module in self.modules.items():  # `from package import module` reads an attribute
            parent, _, last = name.rpartition(".")
            if parent:
                setattr(self.modules[parent], last, module)
        part = lambda name: self.modules[f"{evals}.{name}"]
        part("core.main").multiple_evals = self.multiple_evals
        probing = part("sparse_probing.main")
        probing.run_eval = self.run_eval
        probing.dataset_utils = SimpleNamespace(get_multi_label_train_test_data=None)
        probing.dataset_info = SimpleNamespace(chosen_classes_per_dataset={"fancyzhx/ag_news": ["0", "1", "2", "3"]})
        self.probing = probing
        part("sparse_probing.eval_config").SparseProbingEvalConfig = SparseProbingEvalConfig
        part("sparse_probing_sae_probes.main").run_eval = self.run_sae_probes
        part(
            "sparse_probing_sae_probes.eval_config"
        ).SparseProbingSaeProbesEvalConfig = SparseProbingSaeProbesEvalConfig

    def _loaded(self, name: str) -> Any:
        return self.lens.HookedTransformer.from_pretrained_no_processing(name, device="cpu", dtype=torch.float32)

    @torch.no_grad()
    def multiple_evals(
        self,
        selected_saes: list[tuple[str, Any]],
        n_eval_reconstruction_batches: int,
        n_eval_sparsity_variance_batches: int,
        eval_batch_size_prompts: int = 8,
        compute_featurewise_density_statistics: bool = False,
        compute_featurewise_weight_based_metrics: bool = False,
        exclude_special_tokens_from_reconstruction: bool = False,
        dataset: str = "Skylion007/openwebtext",
        context_size: int = 128,
        output_folder: str = "eval_results",
        verbose: bool = False,
        dtype: str = "float32",
        device: str = "cuda",
        force_rerun: bool = False,
    ) -> None:
        self.calls["core"] = locals()
        ((name, sae),) = selected_saes
        sae = sae.to(device=device, dtype=torch.float32)
        model = self._loaded(sae.cfg.model_name)
        x = model.activations(torch.arange(8)[None], sae.cfg.hook_name)
        acts = sae.encode(x)
        out = sae.decode(acts)
        _ = sae.W_enc.norm(dim=0), sae.W_dec.T.norm(dim=0), sae.b_enc, sae.device, sae.cfg.hook_layer
        metrics = {
            "l0": float((acts != 0).sum(-1).float().mean()),
            "mse": float((out - x).square().mean()),
            "unit_rows": bool(torch.allclose(sae.W_dec.norm(dim=1), torch.ones(sae.cfg.d_sae), atol=1e-5)),
        }
        _write(output_folder, f"{name}_core", metrics, sae)

    def run_eval(
        self,
        config: SparseProbingEvalConfig,
        selected_saes: list[tuple[str, Any]],
        device: str,
        output_path: str,
        force_rerun: bool = False,
        clean_up_activations: bool = False,
        save_activations: bool = True,
        artifacts_path: str = "artifacts",
    ) -> None:
        self.calls["sparse_probing"] = locals()
        ((name, sae),) = selected_saes
        self._loaded(config.model_name)
        sizes = {}
        for dataset in config.dataset_names:
            classes = self.probing.dataset_info.chosen_classes_per_dataset[dataset]
            train, test = self.probing.dataset_utils.get_multi_label_train_test_data(dataset, 4000, 1000, 42)
            assert all(isinstance(text, str) for part in (train, test) for c in classes for text in part[c])
            assert all(not set(train[c]) & set(test[c]) for c in classes)
            sizes |= {c: [len(train[c]), len(test[c])] for c in classes}
        _write(output_path, f"{name}_sparse_probing", sizes, sae)

    def run_sae_probes(
        self,
        config: SparseProbingSaeProbesEvalConfig,
        selected_saes: list[tuple[str, Any]],
        device: str,
        output_path: str,
        force_rerun: bool = False,
    ) -> None:
        self.calls["sae_probes"] = locals()
        ((name, sae),) = selected_saes
        _write(output_path, f"{name}_sae_probes", {"tasks": config.dataset_names}, sae)
