"""Shapes of the learning rate, segments, and how a run is cut into stages."""
