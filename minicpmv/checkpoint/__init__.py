"""A checkpoint on disk or on the hub: its files, JSON, tensors and shapes."""
