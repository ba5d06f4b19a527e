"""SAEBench on a dictionary of monosem, through ``sae.dense()``.

    python bench/environments.py sae_bench
    PYTHONPATH=python .venv-bench/sae_bench/bin/python bench/saebench.py RUN --out OUT [--only core …]

SAEBench evaluates what ``ms.load(RUN).dense(unit_rows=True)`` gives as it stands. A dictionary of one of monosem's own
models is evaluated without network: the model is handed to SAEBench as a TransformerLens model, and texts are local.

* ``core``: SAEBench's own evaluation, on ``--text`` in place of OpenWebText.
* ``sparse_probing``: its own probes, on the sources of ``--text`` in place of its data sets.
* ``sae_probes``: its own adapter of sae-probes, on the data that this package brings.

Any other model is loaded by SAEBench itself, by its name in TransformerLens.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path
from typing import Any

import torch

import monosem as ms
from monosem.data.models import as_transformer_lens
from monosem.data.native import NativeModel

# Its probes are checked by annotations that jaxtyping 0.3.11 takes for
# contradictory: one name for the texts of a label and for those of both sides. Read when jaxtyping is imported.
os.environ.setdefault("JAXTYPING_DISABLE", "1")
EVALUATIONS = ("core", "sparse_probing", "sae_probes")
LOCAL = "local"  # the name of the texts of --text among SAEBench's data sets
SHORT = ["105_click_bait", "5_hist_fig_ismale"]  # tasks of few tokens: sae-probes cuts at 1,024, where A reads 256


def give_model(name: str) -> None:
    """Have TransformerLens load a model of ours by its name; other names are left to it."""
    from transformer_lens import HookedTransformer

    if not isinstance(ms.load_model(name), NativeModel):
        return
    model: Any = as_transformer_lens(name)
    for method in ("from_pretrained_no_processing", "from_pretrained"):
        setattr(HookedTransformer, method, staticmethod(lambda *args, **options: model))


def write_texts(text: str, folder: Path) -> str:
    """The documents of a text as JSON lines in a folder, as the library ``datasets`` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.jsonl").open("w", encoding="utf-8") as out:
        for document in ms.documents(text):
            out.write(json.dumps({"text": document.text}) + "\n")
    return str(folder)


def core(sae: Any, args: argparse.Namespace, out: Path) -> None:
    from sae_bench.evals.core.main import multiple_evals

    multiple_evals(
        selected_saes=[(args.name, sae)],
        n_eval_reconstruction_batches=args.batches,
        n_eval_sparsity_variance_batches=args.batches,
        eval_batch_size_prompts=args.batch_size,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
        dataset=write_texts(args.text, out / "texts"),
        context_size=args.context,
        output_folder=str(out / "core"),
        device="cpu",
        force_rerun=True,
    )


def sparse_probing(sae: Any, args: argparse.Namespace, out: Path) -> None:
    from sae_bench.evals.sparse_probing import main
    from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig

    by_label: dict[str, list[str]] = {}
    for document in ms.documents(args.text):
        by_label.setdefault(document.source, []).append(document.text)
    train, test = args.texts - args.texts // 5, args.texts // 5
    chosen = {label: texts for label, texts in by_label.items() if len(texts) >= train + test}
    for texts in chosen.values():
        random.Random(0).shuffle(texts)
    parts = (
        {label: texts[:train] for label, texts in chosen.items()},
        {label: texts[train : train + test] for label, texts in chosen.items()},
    )
    main.dataset_utils.get_multi_label_train_test_data = lambda *args: parts
    main.dataset_info.chosen_classes_per_dataset[LOCAL] = list(chosen)
    config = SparseProbingEvalConfig(
        model_name=sae.cfg.model_name,
        dataset_names=[LOCAL],
        context_length=args.context,
        llm_batch_size=args.batch_size,
        llm_dtype="float32",
    )
    main.run_eval(
        config,
        [(args.name, sae)],
        "cpu",
        str(out / "sparse_probing"),
        force_rerun=True,
        save_activations=False,
        artifacts_path=str(out / "artifacts"),
    )


def sae_probes(sae: Any, args: argparse.Namespace, out: Path) -> None:
    from sae_bench.evals.sparse_probing_sae_probes import main
    from sae_bench.evals.sparse_probing_sae_probes.eval_config import SparseProbingSaeProbesEvalConfig

    config = SparseProbingSaeProbesEvalConfig(
        model_name=sae.cfg.model_name,
        dataset_names=args.tasks,
        results_path=str(out / "artifacts" / "sae_probes"),
        model_cache_path=str(out / "artifacts" / "activations"),
    )
    main.run_eval(config, [(args.name, sae)], "cpu", str(out / "sae_probes"), force_rerun=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="RUN")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=EVALUATIONS, default=EVALUATIONS, metavar="EVALUATION")
    parser.add_argument("--text", default="sample", help="as of `monosem evaluate`; its sources are labels")
    parser.add_argument("--tasks", nargs="+", default=SHORT, metavar="TASK", help="of sae-probes")
    parser.add_argument("--texts", type=int, default=200, help="of each label, a fifth of them to test on")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--name", default="monosem", help="in the names of SAEBench's files")
    args = parser.parse_args()
    torch.manual_seed(0)
    sae = ms.load(args.folder).dense(unit_rows=True).eval()
    give_model(sae.cfg.model_name)
    for name in args.only:
        {"core": core, "sparse_probing": sparse_probing, "sae_probes": sae_probes}[name](sae, args, args.out)
    for path in sorted(args.out.glob("*/*_eval_results.json")):
        print(path, json.dumps(json.loads(path.read_text())["eval_result_metrics"], indent=1), sep="\n")


if __name__ == "__main__":
    main()
