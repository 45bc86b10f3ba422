"""Estimating tau: its value, its uncertainty, what the scores around it look like."""
