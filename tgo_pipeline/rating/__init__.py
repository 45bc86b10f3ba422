"""People rate images: the page of `tgo rate`, its ratings file, and images and ratings for those who rate elsewhere.

`gallery.py` lists the images, `store.py` keeps the answers, `order.py` says what comes next, `session.py` puts the
three together, `server.py` and `page/` show them. `agreement.py` and `summary.py` say how the raters agree; `sample.py`
and `other_tools.py` are for those who rate elsewhere. docs/RATING.md.
"""
