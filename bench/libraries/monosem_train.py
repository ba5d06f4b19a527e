"""``monosem train``, the whole command: reads the tokens, runs the language model, trains, saves."""

import importlib
import tempfile
import time

from monosem.cli.main import main

for module in ("monosem.data.models", "monosem.train.trainer"):  # the command would import them within its time
    importlib.import_module(module)


class Train:
    notes = [
        "the time is of the whole command, from reading the tokens to the saved dictionary; PyTorch and the libraries "
        "are imported before it, for this and for the runner"
    ]

    def __init__(self, job: dict) -> None:
        self.job = job

    def run(self) -> dict:
        job = self.job
        with tempfile.TemporaryDirectory() as folder:
            arguments = {
                "model": job["model"],
                "hook": job["hook"],
                "tokens": job["tokens"],
                "kind": "topk",
                "d-sae": job["f"],
                "k": job["k"],
                "batch-size": job["n"],
                "steps": job["steps"],
                "lr": job["lr"],
                "out": folder,
            }
            begin = time.perf_counter()
            status = main(["train", "--quiet", *(str(a) for k, v in arguments.items() for a in (f"--{k}", v))])
            seconds = time.perf_counter() - begin
        if status:
            raise RuntimeError(f"`monosem train` ended with {status}; its log says why")
        return {"seconds": seconds, "tokens": job["steps"] * job["n"]}


def build(job: dict, weights: dict) -> Train:
    return Train(job)
