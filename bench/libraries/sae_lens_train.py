"""SAELens' ``LanguageModelSAETrainingRunner`` on monosem's model A, given to it as a TransformerLens model."""

import os
import sys
import time

os.environ["WANDB_MODE"], os.environ["HF_HUB_OFFLINE"] = "disabled", "1"

import numpy as np  # noqa: E402
from datasets import Dataset  # noqa: E402
from sae_lens import (  # noqa: E402
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
    TopKTrainingSAEConfig,
)


class Train:
    packages = ["sae-lens", "transformer-lens"]
    notes = ["the time is of `run()`; model, data set and buffers are made before it"]

    def __init__(self, job: dict) -> None:
        sys.path.append(job["monosem"])  # only to have the model
        from monosem.data.models import as_transformer_lens

        self.job, self.model = job, as_transformer_lens(job["model"])
        rows = np.load(job["tokens"])
        self.data = Dataset.from_dict({"tokens": rows.tolist()})
        self.context = rows.shape[1]

    def run(self) -> dict:
        job = self.job
        tokens = job["steps"] * job["n"]
        config = LanguageModelSAERunnerConfig(
            sae=TopKTrainingSAEConfig(d_in=job["d"], d_sae=job["f"], k=job["k"], normalize_activations="none"),
            model_name="monosem",
            hook_name=job["hook"],
            dataset_path="local",
            is_dataset_tokenized=True,
            streaming=False,
            context_size=self.context,
            seqpos_slice=(1, None),
            training_tokens=tokens,
            store_batch_size_prompts=16,
            n_batches_in_buffer=64,
            train_batch_size_tokens=job["n"],
            lr=job["lr"],
            device="cpu",
            dtype="float32",
            n_checkpoints=0,
            checkpoint_path=None,
            output_path=None,
            verbose=False,
            logger=LoggingConfig(log_to_wandb=False),
        )
        runner = LanguageModelSAETrainingRunner(config, override_dataset=self.data, override_model=self.model)
        begin = time.perf_counter()
        runner.run()
        return {"seconds": time.perf_counter() - begin, "tokens": tokens}


def build(job: dict, weights: dict) -> Train:
    return Train(job)
