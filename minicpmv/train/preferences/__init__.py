"""Pairs of answers from a model's own samples, as in RLAIF-V (arXiv 2405.17220)."""
