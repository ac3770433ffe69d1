"""A command line that was typed wrongly."""


class UsageError(ValueError):
    """What was typed cannot be meant; the command exits with 2."""
