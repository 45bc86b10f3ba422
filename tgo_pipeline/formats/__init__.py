"""Files as they come from outside, one boundary for each format: whatever a parser raises becomes one line of text."""
