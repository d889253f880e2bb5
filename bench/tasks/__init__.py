"""What the benchmarks train: small real tasks, their networks and their data."""
