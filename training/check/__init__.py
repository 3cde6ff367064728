"""What can be known of a training run before any weight is loaded."""
