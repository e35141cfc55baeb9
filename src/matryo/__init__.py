"""matryo: sparse autoencoders, phenology and empathic agents in one house of three rooms."""

__version__ = "0.1.0"
