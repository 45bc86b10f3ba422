"""Rewards that are measured without a network of preference: the size of a JPEG, text that was asked for."""
