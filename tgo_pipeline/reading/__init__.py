"""Read rows from files, here or on the hub: one reader of tables for prompts, feedback, captions and ratings."""
