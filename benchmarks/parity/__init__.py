"""The official reward packages, in an environment of their own, and random checkpoints in their layouts."""
