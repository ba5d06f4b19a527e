"""Scripts that take the steps: monosem itself and plain PyTorch. ``worker.py`` runs each in a process of its own."""
