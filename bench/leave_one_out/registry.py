"""Every method of the bench by name, and the families of variants that a choice is made from."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType

from bench.leave_one_out.methods import FixedLR, Method, Ours
from bench.leave_one_out.rivals import FixedOptimizer, Plus, Rival, adamw, sgd

DEFAULT = "autolrs"

BETAS = (0.8, 0.9, 0.95, 0.98)
"""Of the arms whose β an oracle chooses."""

LR_ORACLE = "lr_oracle"
BETA_ARMS = tuple(f"autolrs_beta_{beta:g}" for beta in BETAS)
BOTH_ARMS = tuple(f"lr_oracle_beta_{beta:g}" for beta in BETAS)

SCHEDULES = ("cosine", "wsd", "schedule_free", "schedule_free_long_warmup")


_ALL: tuple[Method, ...] = (
    Ours(DEFAULT),
    Ours("autolrs_no_research", (("search.research", None),)),
    Ours("autolrs_probes_20", (("search.probe_steps", 20),)),
    Ours("autolrs_probes_80", (("search.probe_steps", 80),)),
    *(
        Ours(name, (("averaging.momentum", beta),))
        for name, beta in zip(BETA_ARMS, BETAS, strict=True)
    ),
    FixedLR(LR_ORACLE),
    *(FixedLR(name, beta) for name, beta in zip(BOTH_ARMS, BETAS, strict=True)),
    *map(Rival, SCHEDULES),
    FixedOptimizer("adamw_fixed", adamw, 1e-3),
    FixedOptimizer("sgd_fixed", sgd, 0.1),
    Plus("schedule_free_plus", polyak=False),
    Plus("schedule_free_plus_polyak", polyak=True),
    *([Rival("prodigy")] if importlib.util.find_spec("prodigyopt") else []),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""Every method, by name; Prodigy if the package ``prodigyopt`` is installed."""

TUNED = SCHEDULES
"""The rivals of whom the best is taken, each at the best of its learning rates."""

OTHER_RIVALS = tuple(
    name for name, method in METHODS.items() if not method.is_ours and name not in TUNED
)
"""Rivals that are compared one by one."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "research": (DEFAULT, "autolrs_no_research"),
    "probe_steps": (DEFAULT, "autolrs_probes_20", "autolrs_probes_80"),
    "beta": (DEFAULT, *BETA_ARMS),
}
"""Variants of ours of which leave-one-group-out chooses one: add those to be tried, as methods."""
