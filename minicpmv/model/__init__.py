"""Tensors to tensors: the vision tower, the resampler, and the language model behind one forward."""
