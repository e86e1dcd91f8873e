"""The training engine: trainer set-up, clock, checkpoints, compute."""
