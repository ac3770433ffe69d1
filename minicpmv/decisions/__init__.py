"""Decisions with probabilities: choices, yes or no, scores; and their calibration."""
