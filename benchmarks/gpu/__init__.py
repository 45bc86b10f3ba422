"""What only a GPU can tell, in one go of some minutes: `python -m benchmarks.gpu` (docs/GPU.md)."""
