"""Helpers for all other packages: files and directories, sources, names, times, masking, progress."""
