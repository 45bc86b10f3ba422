"""Which objective aligns the small world best: `python -m benchmarks.objectives run`."""
