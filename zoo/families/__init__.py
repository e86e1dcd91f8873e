"""The model families: one readable file a model."""
