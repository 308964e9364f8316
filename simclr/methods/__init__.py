"""Pre-training methods, one file and one `compute` each."""
