"""Named loads with bars: one file each, against a server that is there or one that is started for it."""
