"""What machines need: processes, signals, files, memory, precision, random numbers."""
