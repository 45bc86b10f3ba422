"""Text that people read, from one table: plain text, Markdown, LaTeX and the terminal."""
