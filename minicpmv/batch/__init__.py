"""Many requests from a file, and one result for each in another: `minicpmv batch`."""
