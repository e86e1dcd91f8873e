"""Data modules: splits that live in memory, read by index."""
