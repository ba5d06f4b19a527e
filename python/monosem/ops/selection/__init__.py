"""How both encoders find what is active without storing what is not: products, their error bounds, candidates."""
