"""What the protocols beside chat completions say in their own words: requests in, answers out."""
