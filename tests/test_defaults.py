"""Any default dtype or device of the process gives the same bits. A default of two bytes once overran the heap."""

import hashlib

import pytest
import torch

import monosem as ms
from monosem import ops
from monosem.analysis.index import build_index
from monosem.analysis.inputs import Subject
from monosem.analysis.metrics import evaluate

N, D, F = 192, 64, 512
HOOK = "blocks.0.mlp.hook_post"


def digest(*tensors: torch.Tensor) -> str:
    """Of dtypes and bytes."""
    of = hashlib.sha256()
    for t in tensors:
        of.update(str(t.dtype).encode() + t.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return of.hexdigest()


def dictionaries() -> dict[str, ms.TopKSAE | ms.ReLUSAE]:
    return {"topk": ms.TopKSAE(D, F, 8, seed=0, device="cpu"), "relu": ms.ReLUSAE(D, F, 1e-3, seed=0, device="cpu")}


def operations() -> dict[str, str]:
    digests = {}
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
    for name, sae in dictionaries().items():
        w, b_enc, b_dec = sae.W_enc_rows.data, sae.b_enc.data, sae.b_dec.data
        code = ops.topk_encode(x, w, b_enc, 8) if name == "topk" else ops.threshold_encode(x, w, b_enc)
        values, indices, offsets = code.csr()
        starts, entries, tokens = ops.csc(indices, offsets, F)
        loss, residual, slopes = ops.decode_loss_rows(values, indices, offsets, sae.W_dec.data, b_dec, x)
        grad = ops.row_grad(starts, entries, tokens, values, residual)
        sums = ops.feature_sum(starts, entries, slopes)
        dots = ops.gather_dot(x, indices, offsets, sae.W_dec.data)
        digests[name] = digest(
            values, indices, offsets, starts, entries, tokens, loss, residual, slopes, grad, sums, dots
        )
        digests[f"{name} code"] = digest(code.l0(), code.to_dense(), sae.decode(code))
    return digests


def steps(folder) -> dict[str, str]:
    digests = {}
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float32, device="cpu")
    for name, sae in dictionaries().items():
        out = sae.loss(x)
        out.loss.backward()
        digests[f"{name} loss"] = digest(out.loss, out.mse, sae.W_dec.grad, sae.W_enc_rows.grad, sae.b_enc.grad)
        options = {} if name == "topk" else {"resample": ms.ResampleConfig((3,), 2, 512)}
        trainer = ms.Trainer(sae, ms.TrainConfig(batch_size=N, steps=6, dead_after=300, **options), progress=False)
        metrics = [trainer.step(x) for _ in range(6)][-1]
        digests[f"{name} steps"] = digest(
            sae.W_dec,
            sae.W_enc_rows,
            sae.b_enc,
            sae.b_dec,
            *(m for m in metrics.values() if isinstance(m, torch.Tensor)),
        )
        ms.save(sae, folder / name)
        digests[f"{name} saved"] = digest(ms.load(folder / name).W_dec)
    return digests


def reading(folder) -> dict[str, str]:
    model = ms.load_model("A")
    rows = ms.pack_rows(ms.sample_documents("train")[:5], model)
    sae = ms.TopKSAE(512, 256, 4, seed=0, device="cpu")
    build_index(Subject(sae, model, HOOK), rows, folder / "index", progress=False)
    arrays = b"".join(p.name.encode() + p.read_bytes() for p in sorted((folder / "index").rglob("*.npy")))
    stream = ms.ActivationStream(model, HOOK, rows.tokens, batch_size=256)
    ms.Trainer(sae, ms.TrainConfig(batch_size=256, steps=2), folder / "run", progress=False).fit(stream)
    return {
        "activations": digest(model.activations(rows.tokens[:1], HOOK)),
        "index": hashlib.sha256(arrays).hexdigest(),
        "evaluation": repr(evaluate(ms.load(folder / "run"), model, HOOK, rows, progress=False)),
    }


def everything(folder) -> dict[str, str]:
    return operations() | steps(folder) | reading(folder)


@pytest.fixture(scope="module")
def usual(tmp_path_factory) -> dict[str, str]:
    return everything(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_another_default_dtype(usual, dtype, tmp_path):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        digests = everything(tmp_path)
    finally:
        torch.set_default_dtype(before)
    assert digests == usual


def test_another_default_device(usual, tmp_path):
    torch.set_default_device("meta")  # tensors there have no memory: reading one fails
    try:
        digests = everything(tmp_path)
    finally:
        torch.set_default_device(None)
    assert digests == usual
