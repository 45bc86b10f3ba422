"""Score images with reward models: the stage of the pipeline, and the free-standing `tgo score` in `command/`."""
