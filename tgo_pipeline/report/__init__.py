"""The HTML report: one file that opens offline and shows what a run did and whether it helped."""

VERSION = 3
"""Raise it when the same tables give another page. It enters no fingerprint: every run writes the whole report."""
