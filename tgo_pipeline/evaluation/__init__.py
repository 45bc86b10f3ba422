"""The tuned model against the base model: paired samples, win rates, intervals, tables."""
