"""The networks of a pipeline: fetched, loaded strictly, and watched while they draw."""
