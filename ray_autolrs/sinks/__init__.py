"""Where what happens in a run goes while it runs: one file a sink."""
