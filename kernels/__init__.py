"""Device code: Triton (``<stem>.py``) and CUDA (``<stem>.cuh``). Nothing here is imported without a need for it."""
