"""Servers behind this one that compute the answers: vLLM's, or others of this package."""
