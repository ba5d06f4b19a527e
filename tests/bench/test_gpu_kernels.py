"""The kernels of a step: names, times and least work of each."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode

import monosem as ms
from monosem.bench import gpu_kernels
from monosem.bench.floor import Rates
from monosem.bench.workloads import WORKLOADS, Workload
from monosem.kernels import launch
from monosem.ops import gpu
from monosem.ops.gpu import available
from monosem.train.step import FastStep

RATES = Rates(1e14, 1e12, "bf16")


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("row_grad_adam", "row_grad_adam"),
        (
            "void monosem::(anonymous namespace)::decode_loss_kernel<float, 4>(Code, float const*, long)",
            "decode_loss_kernel",
        ),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, std::array<char*>>(int)",
            "vectorized_elementwise_kernel<FillFunctor>",
        ),
        ("void gemv2T_kernel_val<int, int, float, float, 128, 16, 4>(cublasGemvParamsEx)", "gemv2T_kernel_val"),
        ("Memset (Device)", "Memset"),
    ],
)
def test_a_kernel_has_its_own_name(name, short):
    assert gpu_kernels.short(name) == short


def event(name, start, end, device=DeviceType.CUDA, **about):
    return SimpleNamespace(name=name, device_type=device, time_range=SimpleNamespace(start=start, end=end), **about)


def test_only_device_events_of_the_profiler_count_as_kernels():
    launches, span = gpu_kernels.by_name(
        [
            event("collect", 10.0, 14.0),
            event("cudaLaunchKernel", 0.0, 99.0, DeviceType.CPU),
            event("collect", 20.0, 27.0),
            event("step", 0.0, 50.0, is_user_annotation=True),
            event("emit", 27.0, 30.0),
        ]
    )
    assert launches == {"collect": [4.0, 7.0], "emit": [3.0]} and span == 20.0


def test_figures_of_each_kernel():
    w = Workload(n=1000, d=512, f=10_000, k=8)
    steps = [
        {"collect": [1000.0, 1000.0], "emit": [5.0]},
        {"collect": [1100.0, 900.0], "other": [1.0]},
        {"collect": [3000.0, 1000.0], "emit": [7.0]},
    ]
    figures = gpu_kernels.table(steps, [2100.0, 2500.0, 2000.0], w, RATES)
    first, *rest = figures["kernels"]
    assert (first["kernel"], first["launches"], first["launch_us"], first["ms"]) == ("collect", 2, 1000.0, 2.0)
    assert first["flops"] == 2 * 1000 * 512 * 10_000 and first["floor_ms"] == pytest.approx(1e3 * first["flops"] / 1e14)
    assert first["to_floor"] == pytest.approx(2.0 / first["floor_ms"])
    assert "bytes" not in next(row for row in rest if row["kernel"] == "other") and figures["ms"] == 2.1
    vain = next(row for row in rest if row["kernel"] == "emit")
    assert vain["floor_ms"] == 0.0 and "to_floor" not in vain  # no ratio to a floor of 0
    assert "floor_ms" not in gpu_kernels.table(steps, [1.0], w, None)["kernels"][0]


def work(kernel, w):
    return gpu_kernels.work_of(kernel, gpu_kernels.of_step(w))


def test_the_bytes_of_the_kernels_are_those_of_the_floor():
    w = WORKLOADS["llama3"]
    small = 1.02  # indices, values, the activations themselves
    gathered = (
        sum(work(name, w).moved for name in ("decode_loss", "encoder_grad_adam", "row_grad_adam"))
        - w.adam_bytes
        - 2 * w.f * w.d
    )
    assert w.gather_bytes < gathered < small * w.gather_bytes + 2 * 4 * w.n * w.d
    assert w.rescore_bytes < work("score", w).moved < small * w.rescore_bytes + 4 * w.n * w.d
    assert work("collect", w).flops == w.product_flops
    for cuda in ("decode_loss_kernel", "row_grad_adam_kernel", "encoder_grad_adam_kernel"):
        assert work(cuda, w) == work(cuda.removesuffix("_kernel"), w)
    for slab in ("nvjet_hsh_128x256_64x4_1x2_h_bz_TNT", "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n"):
        assert work(slab, w).flops == w.product_flops
    assert work("sm80_xmma_gemm_f32f32_f32f32_f32_nn_n", w) == work("gemv2T_kernel_val", w)
    assert work("gemv2T_kernel_val", w).moved > 4 * w.f * w.d and work("at::native::cumsum", w) is None
    for vain in ("redo", "emit", "windows", "hot_piece_kernel"):  # these have no work on such data
        assert work(vain, w) == gpu_kernels.Work(0, 0)
    dense = work("row_adam", w).moved - w.adam_bytes - 2 * w.f * w.d
    assert dense == 2 * 4 * w.f * w.d == work("row_grad", w).moved - 2 * w.rescore_bytes - 2 * 16 * w.n * w.k
    assert work("sift", w).moved > 2 * w.n * w.f and work("choose", w).moved > work("score", w).moved
    assert work("flat_adam", w) == work("adam_entries_kernel", w) == gpu_kernels.Work(16 * 135_168, 28 * 135_168)
    parts = [work(f"sort_{name}_kernel", w).moved for name in ("count", "scan", "place", "starts")]
    assert work("csc", w).moved == sum(parts) > 2 * 16 * w.n * w.k


@pytest.fixture
def recorded(monkeypatch):
    """Steps whose kernels are named and not run: call(kind, backend, **options of FastStep) → names."""
    from monosem.ops import backend, cuda_launch, layout, triton_launch
    from monosem.ops.topk_encode import triton as topk_triton

    seen: set[str] = set()

    def record(kernel, grid, *args, **options):
        seen.update({kernel.__name__} if grid else ())

    monkeypatch.setattr(triton_launch, "run", record)
    monkeypatch.setattr(cuda_launch, "kernels", SimpleNamespace(csc_workspace=lambda *_: 1))
    for name in ("sparse_decode", "gather_dot", "decode_loss", "csc", "row_grad", "feature_sum", "row_adam",
                 "row_grad_adam", "encoder_grad_adam"):  # fmt: skip
        setattr(cuda_launch.kernels, name, lambda name=name, **_: seen.add(name))
    monkeypatch.setattr(cuda_launch, "stream", lambda _: 0)
    monkeypatch.setattr(gpu, "interpreted", lambda: True)
    monkeypatch.setattr(gpu, "asynchronous", lambda _: True)
    monkeypatch.setattr(gpu, "available", lambda _: "")
    monkeypatch.setattr(layout, "checked_code", lambda i, o, _: (i.contiguous(), o.contiguous(), len(o) - 1))
    monkeypatch.setattr(torch, "empty", torch.zeros)  # unwritten entries are codes of feature 0

    def call(kind: str, name: str, form: str = "scan", clip: float | None = None, live: bool = False, **options):
        monkeypatch.setattr(backend, "requested", lambda: name)
        monkeypatch.setattr(topk_triton, "form_at", lambda *_: form)
        sae = ms.TopKSAE(16, 4096, 4, aux_k=3, seed=1) if kind == "topk" else ms.ReLUSAE(16, 4096, seed=1)
        if kind == "relu":
            sae.capacity.expect(30, 5.0)
        seen.clear()
        lr = torch.zeros((), dtype=torch.float64) if live else 1e-3
        FastStep(sae, **options)(torch.randn(1024, 16), lr, clip=clip)
        return set(seen)

    return call


@pytest.mark.skipif(bool(available("triton")), reason=available("triton"))
def test_every_kernel_that_a_step_launches_has_its_work(recorded):
    """By Triton and by CUDA, in each form of selection, with gradients in factors and in memory."""
    table, seen = gpu_kernels.of_step(WORKLOADS["gpt2"]), set()
    for name in ("triton", "cuda"):
        for form in (*launch.FORMS, "int8"):
            seen |= recorded("topk", name, form)
        seen |= recorded("topk", name, clip=1.0, adam_state="bf16") | recorded("topk", name, live=True)
        seen |= recorded("relu", name)
    usual = (
        "quantize_rows sample set_threshold collect sift choose redo emit place score count settle windows "
        "encoder_grad_adam row_grad_adam row_grad feature_sum row_adam flat_adam advance_live"
    )
    assert seen > {*usual.split(), "csc"}
    seen.remove("sparse_decode")  # sums rows on a CPU, in place of a product
    assert not {name for name in seen if gpu_kernels.work_of(name, table) is None}


@pytest.mark.skipif(bool(available("triton")), reason=available("triton"))
def test_a_step_that_counts_itself_launches_one_kernel_more_than_one_that_is_counted(recorded):
    """One launch writes the step number and its factors on the device; no launch is PyTorch's."""

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            operations.append(str(function))
            return function(*args, **(kwargs or {}))

    with_it = recorded("topk", "triton", live=True)
    assert with_it - recorded("topk", "triton") == {"advance_live"}
    operations: list[str] = []
    live, lr, steps = torch.zeros(8), torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
    with Operations():
        gpu.advance_live_(live, lr, steps, 0.9, 0.999)
    assert operations == []


def test_every_cuda_kernel_of_a_step_has_its_work():
    """The kernels of a launcher have names of their own in a profiler."""
    table = gpu_kernels.of_step(WORKLOADS["gpt2"])
    sources = "".join(path.read_text() for path in (Path(__file__).parents[2] / "kernels").rglob("*.cuh"))
    defined = set(re.findall(r"__global__\s+void\s+(?:__launch_bounds__\((?:[^()]|\([^)]*\))*\)\s+)?(\w+)\(", sources))
    in_no_step = {"sparse_decode_kernel", "gather_dot_kernel", "alive_norms_kernel", "resample_kernel"}
    assert len(defined) >= 15 and in_no_step < defined
    assert {name for name in defined if gpu_kernels.work_of(name, table) is None} == in_no_step


@pytest.mark.skipif(bool(available("triton")), reason=available("triton"))
def test_every_launch_is_recorded_and_timed_with_events(monkeypatch):
    from monosem.ops import cuda_launch, triton_launch

    ran = []

    class Kernel:
        __name__ = "decode_loss"

        def __getitem__(self, grid):
            return lambda *args, **options: ran.append((grid, args, options))

    launcher = SimpleNamespace(csc=lambda **options: ran.append(options), csc_workspace=lambda n: n)
    monkeypatch.setattr(cuda_launch, "kernels", launcher)
    plain = triton_launch.run

    def call():
        triton_launch.run(Kernel(), 3, 1, D=2)
        triton_launch.run(Kernel(), 0)
        triton_launch.run(Kernel(), 1)
        assert cuda_launch.kernels.csc_workspace(7) == 7
        cuda_launch.kernels.csc(features=5)

    launches, span = gpu_kernels.from_outside(call, torch.device("cpu"))
    assert {name: len(times) for name, times in launches.items()} == {"decode_loss": 2, "csc": 1}
    assert ran == [((3,), (1,), {"D": 2}), ((1,), (), {}), {"features": 5}] and span >= sum(map(sum, launches.values()))
    assert triton_launch.run is plain and cuda_launch.kernels is launcher


def test_launches_are_timed_where_the_profiler_traces_no_kernel(monkeypatch):
    monkeypatch.setattr(gpu_kernels, "profiled", lambda *_: ({}, 0.0))
    monkeypatch.setattr(gpu_kernels, "from_outside", lambda *_: ({"collect": [4.0]}, 5.0))
    figures = gpu_kernels.measure(lambda: None, torch.device("cuda"), WORKLOADS["tiny"], RATES)
    assert figures["by"] == "launches" and figures["kernels"][0]["kernel"] == "collect"
    monkeypatch.setattr(gpu_kernels, "profiled", lambda *_: ({"emit": [4.0]}, 5.0))
    assert gpu_kernels.measure(lambda: None, torch.device("cuda"), WORKLOADS["tiny"], RATES)["by"] == "profiler"
