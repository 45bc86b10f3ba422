"""Parts of one's own, and the built-in ones: found by name through one door.

    OBJECTIVE.load("tgo", base)             # a part of this package
    OBJECTIVE.load("hinge", base)           # an entry point of an installed package
    OBJECTIVE.load("mine:Hinge", base)      # module:object, of the project folder or of an installed package

`kinds.py` has the kinds of parts and their names, `find.py` imports what a name stands for, and `folder.py` knows the
project folder: which files a name stands for, and who may run them (docs/PLUGINS.md).
"""
