"""A checkpoint in the formats of other programs, and back."""
