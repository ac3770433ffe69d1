"""Object HalBench: which of COCO's objects an answer names, and which of them are there."""
