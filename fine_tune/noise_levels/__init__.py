"""Which noise levels carry signal: the first update's gradient, measured by level on one's own model and labels."""

VERSION = 3
BATCHES, UNITS, BINS = 32, 64, 10
"""What is measured unless one asks for more: so many batches of so many units at most, in so many bins of levels."""
