"""The gallery: which samples it shows, and their data for the page."""
