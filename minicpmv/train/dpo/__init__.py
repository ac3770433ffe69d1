"""Training on preferences: DPO (arXiv 2305.18290) and its dense form DDPO (arXiv 2312.00849)."""
