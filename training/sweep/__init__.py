"""A grid of settings trained at once, of which the best is kept."""
