"""Device code: Triton (``<stem>.py``) and CUDA (``<stem>.cuh``). Not written yet; see CONTRIBUTING.md."""
