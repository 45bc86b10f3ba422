"""`tgo sweep`: rewards and diversity over the strength of preference guidance."""
