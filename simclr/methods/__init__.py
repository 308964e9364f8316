"""Self-supervised methods, one file and one training step each."""
