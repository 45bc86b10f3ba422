"""Parameter files for real models, with the papers' settings: `tgo recipe list`."""
