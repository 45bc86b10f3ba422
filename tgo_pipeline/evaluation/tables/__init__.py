"""The tables of an evaluation: for the terminal, and to be read and cited."""
