"""What a run reads besides its own tables: files that the parameters name, and code of one's own."""
