"""The HTML report: one file that opens offline and shows what a run did and whether it helped."""
