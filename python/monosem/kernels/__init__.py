"""Device code: Triton (``<stem>/triton.py``) and CUDA (``<stem>/<stem>.cuh``); imported only where a GPU needs it.

In a checkout it lies in ``kernels/`` at the top, beside ``csrc/``; a wheel has it in this folder.
"""

from pathlib import Path

if not Path(__file__).with_name("launch.py").exists():
    __path__.append(str(Path(__file__).parents[3] / "kernels"))
