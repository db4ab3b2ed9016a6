"""All workloads by name."""

from __future__ import annotations

from speed import dreamerv3, replay, tdmpc2, training
from speed.workload import Workload
from worldloom_rl.config import did_you_mean

WORKLOADS = {
    workload.name: workload
    for workload in (*tdmpc2.WORKLOADS, *dreamerv3.WORKLOADS, *training.WORKLOADS, *replay.WORKLOADS)
}


def find(name: str) -> Workload:
    """The workload of that name. Raises ValueError for another one."""
    if name not in WORKLOADS:
        raise ValueError(
            f"There is no workload {name!r}; there are {', '.join(WORKLOADS)}.{did_you_mean(name, WORKLOADS)}"
        )
    return WORKLOADS[name]
