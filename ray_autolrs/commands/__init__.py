"""What ``ray-autolrs`` can be told: one file a command, each a dataclass of its arguments."""
