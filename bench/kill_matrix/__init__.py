"""Runs that are killed at every kind of place and go on: what they lose, and whether they hang."""
