"""Reward back-propagation: sample with a gradient, score, and follow the score's gradient back into the network."""
