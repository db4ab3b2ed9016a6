"""What `worldloom check` says of environments side by side and of precision, from the times that it measured."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from worldloom_rl.report.environment_report import Trial


def trial(acting: float, update: float) -> Trial:
    return Trial(
        row_bytes=1.0, acting_seconds=acting, update_seconds=update, updates_per_step=0.5, learning_starts=0,
        pretrains=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "acting", "update", "cores", "advice"),
    [
        (0.03, 0.04, 0.2, 8, "one environment is enough"),
        (0.03, 0.04, 0.01, 8, "8 environments side by side would keep the update busy: --num-envs 8 --parallel proc"),
        (0.03, 0.04, 0.002, 4, "40 environments side by side .*: --num-envs 4 --parallel processes, on the 4 cores"),
        (0.0005, 0.04, 0.01, 8, "--num-envs 8, one after another, as a step is too short"),
        (0.03, 0.04, 0.01, 1, "--num-envs 8, one after another, as this machine has one core"),
    ],
)
def test_what_pays_follows_from_the_three_times(
    environment: float, acting: float, update: float, cores: int, advice: str
) -> None:

    assert re.search(advice, trial(acting, update).collection(environment, cores))


@pytest.mark.parametrize(
    ("share", "advice"),
    [
        (None, "^$"),
        (0.45, "takes 0.45 times float32's time on this processor: --bfloat16 shortens updates"),
        (1.9, "takes 1.9 times .*: leave --bfloat16 out"),
    ],
)
def test_bfloat16_pays_where_its_products_are_faster(share: float | None, advice: str) -> None:

    assert re.search(advice, replace(trial(0.03, 0.04), bfloat16=share).precision())
