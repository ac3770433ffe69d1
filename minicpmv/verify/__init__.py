"""`minicpmv verify`: does a checkpoint compute here what it should?

`checks.py` runs a model in several configurations, or beside another format of it, and compares
what `trace.py` recorded stage by stage; the first stage that differs is where to look.
"""

CHECKS = (
    *("batched", "uncached", "streamed", "attention", "engine", "kernels"),
    *("reloaded", "dtypes", "int8", "int4"),
)
