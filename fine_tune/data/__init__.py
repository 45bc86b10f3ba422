"""From labels to batches: labels, pairs, statistics of prompts, the cache of encodings, tensors."""
