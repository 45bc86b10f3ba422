"""Shards that lie in an object store: here is a stub of each, there the file, between them a bounded cache."""
