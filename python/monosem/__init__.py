"""monosem."""
