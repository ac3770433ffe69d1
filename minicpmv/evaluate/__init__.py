"""Measuring models: pages of benchmarks, a runner, metrics and judges; `scenes/` draws its own."""
