"""The commands of `tgo`, one module each."""
