"""``python -m ray_autolrs``, which is ``ray-autolrs``."""

from __future__ import annotations

import sys

from ray_autolrs.commands.command_line import main

if __name__ == "__main__":
    sys.exit(main())
