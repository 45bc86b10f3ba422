"""How the weights of the small world were made: `tgo demo train`."""
