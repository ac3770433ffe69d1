"""Tensors to tensors: vision tower, resampler and language model behind one forward."""
