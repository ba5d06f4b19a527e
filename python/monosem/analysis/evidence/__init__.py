"""The claims of *Towards Monosemanticity*, one module each: ``measure`` computes, ``section`` shows."""
