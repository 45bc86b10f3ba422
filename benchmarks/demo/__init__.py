"""The small world measured: does alignment work on it, and how long does the pipeline take."""
