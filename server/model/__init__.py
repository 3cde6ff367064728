"""The base model: configuration from Hugging Face, loader, packed decoder."""
