"""``--device``: a missing device is an error before any work."""

from __future__ import annotations


def check_device(name: str) -> None:
    """Raises ValueError for a name that is no device, and for a device that this PyTorch or this machine lacks."""
    if name == "cpu":
        return
    import torch

    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"device: got {name!r}; wanted cpu, cuda or cuda:0 ({str(error).splitlines()[0]})") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        built = "is built without CUDA" if torch.version.cuda is None else "sees no GPU"
        raise ValueError(f"device: got {name!r}; PyTorch {torch.__version__} {built}. Use --device cpu.")
    try:
        torch.empty(1, device=device, dtype=torch.float32).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device: got {name!r}, which cannot be used ({str(error).splitlines()[0]})") from None
