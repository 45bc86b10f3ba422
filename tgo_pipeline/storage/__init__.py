"""What is on disk and how it survives: tables, shards, fingerprints, and where every file lies."""
