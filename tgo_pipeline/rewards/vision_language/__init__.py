"""Rewards that are vision-language models: images or clips and a text are read as one sequence of tokens."""
