"""The training loop and what belongs to it: optimisers, checkpoints, early stopping, validation, logs."""
