"""How both encoders find the active features without storing the others: products, error bounds, candidates."""
