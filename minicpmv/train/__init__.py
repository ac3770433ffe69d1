"""Training: optimiser, processes and options; `pretrain/` makes the bundled model."""
