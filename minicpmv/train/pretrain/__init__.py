"""Pre-training of nano, the bundled model, on rendered scenes."""
