"""A demo that needs no downloads: a small base model and three skills, all generated and trained here."""
