"""The bench that cannot be overfitted: every choice is judged on a group it was not made on."""
