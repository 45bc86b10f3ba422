"""Scores of two or more models to estimates, intervals and tests."""
