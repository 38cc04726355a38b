"""What every other room may use: files and their trees, sources, names, times, masking, progress."""
