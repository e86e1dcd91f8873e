"""Data modules: splits that are read by index, from memory, from files as they are needed, or from streams."""
