"""One line of text for each decision, for the log on a terminal."""

from __future__ import annotations

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.report.overfitting import turn
from ray_autolrs.report.stage_table import outcome


def describe(record: Record) -> str | None:
    """Return the line for a record, or None where there is nothing to say.

    >>> describe({"kind": "ready", "step": 1200})
    'workers ready at step 1200'
    """
    match record["kind"]:
        case "lanes":
            return f"a stage's probes are asked for {record['parallel_probes']} at a time"
        case "ready":
            return f"workers ready at step {record['step']}{_within(record)}"
        case "probe":
            head = (
                f"stage {record['stage']} probe {record['index'] + 1}: lr {record['peak_lr']:.4g}"
            )
            if record["diverged"]:
                return f"{head} diverged after {record['steps']} steps"
            if record["forecast_std"] is None:
                return (
                    f"{head} has {record['objective']} loss {_loss(record['forecast'])} "
                    f"after {record['steps']} steps"
                )
            losses = record["validation_losses"] or record["training_losses"]
            return (
                f"{head} forecasts {record['objective']} loss "
                f"{_loss(record['forecast'])} ± {_loss(record['forecast_std'])} "
                f"from {_loss(losses[-1])} after {record['steps']} steps"
            )
        case "choice":
            reason = record["reason"]
            if record["forecast"] is not None:
                reason += f", loss {_loss(record['forecast'])}"
            last = record["first_step"] + record["steps"] - 1
            return (
                f"stage {record['stage']}: apply lr {record['peak_lr']:.4g} ({reason}) "
                f"to steps {record['first_step']}-{last}{_search(record)}"
            )
        case "apply":
            name = f"stage {record['stage']}" if record["stage"] else "warm-up"
            if record["diverged"]:
                return f"{name}: diverged after {record['steps']} steps, back to its start"
            measured = {name: value for _, name, value in record["evaluations"]}
            values = ", ".join(f"{key} {value:.4g}" for key, value in measured.items())
            loss = outcome(record, "training")
            skipped = record.get("skipped_steps", 0)
            left_out = f"; {skipped} steps left out, whose batches were bad" if skipped else ""
            return (
                f"{name}: applied, training loss {loss:.4g}; validation {values}{left_out}"
                f"{_turned(record)}"
            )
        case "finished":
            lost = record.get("lost_steps", 0)
            again = f"; {lost} more were lost to restarts and divergence" if lost else ""
            return (
                f"finished: {record['apply_steps']} applied and {record['probe_steps']} probe "
                f"steps{again}"
            )
        case _:
            return None


def _within(record: Record) -> str:
    """Return where within a stage the workers go on, and what is taken again."""
    text = ""
    if "begun" in record:
        kind, stage, number = record["begun"]
        what = f"probe {number + 1}" if kind == "probe" else "application"
        text = f", {record['done_steps']} steps into stage {stage}'s {what}"
    redone = record.get("redone_steps", 0)
    return text + (f"; {redone} steps are taken again" if redone else "")


def _turned(record: Record) -> str:
    """Return what is to be said of a stage that went on after the validation loss had turned."""
    found = turn(record)
    if found is None:
        return ""
    return (
        f"; it overfits: the validation loss was {found.loss:.4g} after step {found.step}, and has "
        f"risen to {found.last:.4g} while the training loss fell"
    )


def _search(choice: Record) -> str:
    """Return what the search before a choice took, if there was one."""
    if "search_s" not in choice:
        return ""
    return (
        f"; searched in {choice['search_s']:.3g} s by {choice['lanes']} at once "
        f"({choice['expected_s']:.3g} s expected, {choice['together_s']:.3g} s one after the other)"
    )


def _loss(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
