"""The report of an analysis: one page with pictures and sound."""
