"""The reward networks, and what goes into them: towers, tokenizers, preprocessing and precision."""
