"""`lorikeet loadtest thrash`: more adapters than the device has room for, asked of a real server."""
