"""Arithmetic of one step: each fast path beside its slow twin in plain torch."""
