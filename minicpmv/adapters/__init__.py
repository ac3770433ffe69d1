"""Adapters: which parts of a model are trained, and folders that hold exactly those."""
