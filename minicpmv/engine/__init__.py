"""Inference: from messages and options to answers, whole or streamed."""
