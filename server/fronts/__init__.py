"""Several processes that speak gRPC on one port, before one engine.

The first front owns all that there is once: engine, store, quotas, audit log. The others know whom they
serve, and turn text into tokens and back.
"""
