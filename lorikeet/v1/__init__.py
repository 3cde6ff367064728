"""Stubs generated from proto/lorikeet/v1 by `make proto`."""
