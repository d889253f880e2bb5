"""``ray-autolrs``: finds the command that the arguments name, runs it, and returns an exit code.

tyro reads the arguments: it makes the options and their help from the dataclasses.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence

import tyro

from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.commands.command import Command, UsageError, as_usage_errors
from ray_autolrs.commands.demo import Demo, Jobs
from ray_autolrs.commands.lr_range import RangeTest
from ray_autolrs.commands.presets import defaults_for
from ray_autolrs.commands.reports import Compare, Report
from ray_autolrs.commands.schedule_file import Schedule
from ray_autolrs.commands.train import Train

OK, FAILED, MISUSED = 0, 1, 2
"""Exit codes: it was done; a run failed; the arguments cannot be followed."""

DESCRIPTION = """Train PyTorch models with data parallelism on Ray, and find their LR schedules.

Shell completion: ray-autolrs --tyro-print-completion bash (or zsh).
Exit codes: 0 done, 1 the run failed, 2 the arguments cannot be followed."""

COMMANDS: dict[str, Command] = {
    "report": Report(run_path=tyro.MISSING),
    "compare": Compare(runs=tyro.MISSING),
    "schedule": Schedule(action=tyro.MISSING),
    "range-test": RangeTest(task=tyro.MISSING),
    "demo": Demo(),
    "jobs": Jobs(),
}
"""Besides ``train``, whose defaults depend on its arguments."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; those of the process where None.

    Returns:
        ``OK``, ``FAILED`` or ``MISUSED``. What is wrong is written to the standard error.
    """
    words = [*(sys.argv[1:] if argv is None else argv)]
    try:
        with as_usage_errors():
            command = _parsed(words)
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
        )
        command.run()
    except SystemExit as ended:  # tyro's: it has written the help, or what it cannot read
        return ended.code if isinstance(ended.code, int) else OK if ended.code is None else MISUSED
    except UsageError as error:
        print(f"ray-autolrs: {error}", file=sys.stderr)
        return MISUSED
    except KeyboardInterrupt:
        print("ray-autolrs: interrupted; the same command goes on", file=sys.stderr)
        return FAILED
    except (ValueError, SearchFailedError) as error:  # which say what to do
        print(f"ray-autolrs: {error}", file=sys.stderr)
        return FAILED
    except Exception:  # a task's own, or one that nobody foresaw: where it was raised tells more
        traceback.print_exc()
        return FAILED
    return OK


def _parsed(words: Sequence[str]) -> Command:
    name, *rest = words or [""]
    if name == "train":
        command: Command = Train(task=tyro.MISSING, config=defaults_for(rest))
    elif name in COMMANDS:
        command = COMMANDS[name]
    else:  # help and completion, or what is no command
        train = Train(task=tyro.MISSING, config=defaults_for([]))
        commands = {"train": train, **COMMANDS}
        summaries = {name: _summary(command) for name, command in commands.items()}
        kind = tyro.extras.subcommand_type_from_defaults(commands, summaries)
        return tyro.cli(kind, args=words, prog="ray-autolrs", description=DESCRIPTION)
    return tyro.cli(type(command), default=command, args=rest, prog=f"ray-autolrs {name}")


def _summary(command: Command) -> str:
    return (type(command).__doc__ or "").partition("\n")[0]
