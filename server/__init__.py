"""The server: a front process that speaks gRPC and an engine process that owns the device."""
