"""Measuring: `scenes.py` runs the benchmark whose tasks are in `tasks.py`; `metrics.py` scores."""
