"""Many adapters trained at once on one frozen base, none of them noticing the others."""
