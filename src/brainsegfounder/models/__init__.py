"""Tensors to tensors: the Swin encoder, SwinUNETR, the pretext heads, weights."""
