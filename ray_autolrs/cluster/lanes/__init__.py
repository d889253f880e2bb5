"""Who runs probes: one interface, one file for each kind; a new file is found by itself."""
