"""Shapes and icons: what is drawn without text."""
