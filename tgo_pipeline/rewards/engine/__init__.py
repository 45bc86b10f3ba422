"""Scoring many images with many rewards: decoding, batches, and what the device holds at once."""
