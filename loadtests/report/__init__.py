"""What a run looks like: a table, a live line, a page."""
