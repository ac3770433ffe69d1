"""Supervised fine-tuning: whole models and adapters, on conversations in any format."""
