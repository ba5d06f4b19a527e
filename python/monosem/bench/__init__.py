"""Time and memory of a training step, and its distance from the floor of the machine."""
