"""Is one threshold enough? The adequacy report: label flips, their bounds, intervals and a verdict per reward."""
