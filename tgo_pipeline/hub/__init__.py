"""The model hub, once: addresses, files, the cache, their integrity, and its refusals as errors that say what to do."""
