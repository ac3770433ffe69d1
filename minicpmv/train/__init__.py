"""Training: `pretrain.py` makes the default model from random weights on rendered scenes."""
