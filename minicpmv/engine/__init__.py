"""From prepared inputs to tokens and text."""
