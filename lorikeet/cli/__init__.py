"""The command line: the one place that puts server, training and client together."""
