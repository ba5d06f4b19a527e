"""What takes the steps: monosem itself, and plain PyTorch beside it. Run by ``worker.py``, each in its own process."""
