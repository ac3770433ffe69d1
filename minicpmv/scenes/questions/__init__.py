"""Questions, answers and captions, derived from the facts of a scene."""
