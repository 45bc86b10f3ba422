"""Reward scoring, thresholding and fine-tuning of text-to-image models on human preference without pairs."""

__version__ = "0.1.0"
