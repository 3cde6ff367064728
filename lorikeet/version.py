"""The one version of client, server and tools."""

__version__ = "0.1.0"
