"""Measuring: `scenes.py` asks about rendered scenes, `metrics.py` counts."""
