"""The server: one engine behind the protocols that clients speak."""
