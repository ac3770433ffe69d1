"""Checkpoints of the family as GGUF files, for llama.cpp and what is built on it."""
