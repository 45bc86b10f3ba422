"""Several processes that train one network: their group, and networks spread over it."""
