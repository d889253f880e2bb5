"""Training with PyTorch alone: batches, one step, snapshots, probes. It knows no Ray."""
