"""One run by several processes: each a share of the rows, all of them one adapter."""
