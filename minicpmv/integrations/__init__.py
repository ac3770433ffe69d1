"""Hooks for programs of other people: what they need to take our models."""
