"""`python -m minicpmv`, the same as the command `minicpmv`."""

import sys

from minicpmv.cli import main

sys.exit(main())
