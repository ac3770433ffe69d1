"""Training data: rows of any format, checked, encoded as at inference, and packed."""
