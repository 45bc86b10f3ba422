"""Scores that need not fit into memory: read in blocks, kept by prompt on disk, measured part by part."""
