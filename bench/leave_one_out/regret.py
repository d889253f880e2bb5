"""The gap taken apart: our method beside itself with what an oracle knows.

Arms: the learning rate (LR) by an oracle, which trains as the default does at each power of two of
the interval; β by an oracle; both. An oracle's choice is the best in the mean over seeds.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from bench.leave_one_out.comparison import Difference, Methods, best_of, difference
from bench.leave_one_out.registry import BETA_ARMS, BOTH_ARMS, DEFAULT, LR_ORACLE, TUNED
from bench.leave_one_out.store import CachedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """What of our distance to the best rival has which owner, on one task; None: not measured.

    Attributes:
        to_rival: of ours to the best tuned rival.
        lr: LR regret: of ours to the same method at the oracle's LR.
        beta: of ours to itself at the oracle's β, which searches for its LR.
        both: of ours to both by an oracle.
        rest: of both by an oracle (or the LR alone) to the best rival: the average's or the
            method's own.
    """

    to_rival: Difference | None
    lr: Difference | None
    beta: Difference | None
    both: Difference | None
    rest: Difference | None


def gap(methods: Methods) -> Gap:
    """Take a task's gap apart.

    The arm of β holds the default's own β, and that of both the LR oracle's: an oracle that may
    choose more is never worse, but for runs that it lacks.
    """
    ours = methods[DEFAULT]
    seeds = ours.runs.keys()
    rival = best_of(methods, TUNED, seeds)
    lr = best_of(methods, (LR_ORACLE,), seeds)
    beta = best_of(methods, (DEFAULT, *BETA_ARMS), seeds)
    both = best_of(methods, (LR_ORACLE, *BOTH_ARMS), seeds)
    has_beta = any(name in methods for name in BETA_ARMS)
    has_both = any(name in methods for name in BOTH_ARMS)
    best = both if has_both else lr
    return Gap(
        to_rival=difference(ours, rival) if rival else None,
        lr=difference(ours, lr) if lr else None,
        beta=difference(ours, beta) if beta and has_beta else None,
        both=difference(ours, both) if both and has_both else None,
        rest=difference(best, rival) if best and rival else None,
    )


def octaves_off(runs: list[CachedRun], oracle_lr: float | None) -> float | None:
    """Return the mean of log2(LR found / oracle's LR) over our runs; None if either is missing.

    >>> octaves_off([], 0.1) is None
    True
    """
    found = [run.found_lr for run in runs if run.found_lr is not None]
    if not found or oracle_lr is None:
        return None
    return statistics.fmean(math.log2(lr / oracle_lr) for lr in found)
