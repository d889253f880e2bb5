"""Strategies: which learning rates a stage tries, and which one it applies."""
