"""How good the schedules are that AutoLRS finds: ``python -m bench.quality``."""
