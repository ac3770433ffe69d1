"""GGUF: the container, the blocks of weights in it, and which tensor gets which blocks.

What a tensor means and how a model becomes such a file is the business of `minicpmv.export.gguf`.
"""
