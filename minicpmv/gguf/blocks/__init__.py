"""Quantisers of the block types, compiled by numba at their first use and kept on disk.

All arithmetic is float32 with one rounding per operation and sums strictly in index order, as ggml
has it without an FMA unit, so that the bytes are the same. To be fast, the searches look at many
blocks side by side: the innermost loop runs over blocks, which become the lanes of the vectors,
and every block keeps its own order of sums.
"""
