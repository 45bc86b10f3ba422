"""How fast the reward models score, against the official code."""
