"""From what people said about images to one score per image, without any reward model.

`read.py` reads the rows of a file or a preference data set, `ratings_file.py` those that `tgo rate` wrote. `ratings.py`
and `pairwise.py` (with `bradley_terry.py`) make one number per image of them, `scores.py` puts both together, and
`columns.py` joins the scores to the samples of the score stage. Formulas, sources and examples: docs/FEEDBACK.md.
"""
