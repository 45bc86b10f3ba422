"""The free-standing scorer behind `tgo score`: images of any source in, one Parquet table out.

`tgo_pipeline.images` turns what is named on the command line into sources of rows, `prompts` gives each row its prompt,
`run` scores the rows part by part and continues where an earlier call ended, `summary` shows the result.
"""
