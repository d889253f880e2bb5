"""Runs whose conditions change on the way, where no schedule planned beforehand can be right."""
