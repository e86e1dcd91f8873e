"""Callbacks that leave pictures in the run folder."""
