"""The version of the package, for a room that stands inside it."""

import sys

VERSION: str = sys.modules[__name__.partition(".")[0]].__version__
