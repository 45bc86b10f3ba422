"""The sides of the training benchmark: this project's engine, and plain loops like those of the official scripts."""
