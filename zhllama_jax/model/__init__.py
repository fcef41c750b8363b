"""LLaMA in functional Flax: configuration, layers, forward pass, cache, and the resizable vocabulary."""
