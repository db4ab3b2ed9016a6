"""The tables of what `ppo_in_a_dream.py` and `explore.py` found: `python tests/learning/dreams.py` renews the page."""

from __future__ import annotations

import json
from statistics import fmean
from typing import Any

from recorded import markdown
from table import PAGE, RESULTS, between, number, title

BEGIN, END = "<!-- dreams.py -->", "<!-- end of dreams.py -->"
PPO = (
    "dream of, task", "seed", "dreamt steps", "mean return", "before", "the model's own policy", "random policy",
    "file",
)  # fmt: skip
EXPLORED = (
    "seed", "cells seen, exploring", "first success", "cells seen, reward alone", "first success, reward alone",
    "successes, then for the reward", "first success", "file",
)  # fmt: skip

Result = dict[str, Any]


def results_of(kind: str) -> dict[str, Result]:
    """By file, what a script found."""
    return {file.name: json.loads(file.read_text()) for file in sorted(RESULTS.glob(f"{kind}-*.json"))}


def ppo_table(results: dict[str, Result]) -> str:
    """A row for each model in whose dream PPO learned."""
    return markdown(PPO, [ppo_row(name, result) for name, result in results.items()])


def ppo_row(name: str, result: Result) -> list[str]:
    first, *_, last = result["played"]
    own = result.get("policy_prior_returns")
    return [
        f"{title('dreamerv3' if own is None else 'tdmpc2')}, {result['env']}",
        str(result["seed"]),
        f"{last['dreamt_steps']:,}",
        number(fmean(last["returns"])),
        number(fmean(first["returns"])),
        number(fmean(own)) if own else "",
        number(fmean(result["random_returns"])),
        name,
    ]


def explored_table(results: dict[str, Result]) -> str:
    """A row for each seed."""
    return markdown(EXPLORED, [explored_row(name, result) for name, result in results.items()])


def explored_row(name: str, result: Result) -> list[str]:
    exploring, alone, tuned = (result[kind] for kind in ("exploring", "reward_alone", "then_for_the_reward"))
    return [
        str(result["seed"]),
        seen(exploring),
        at(exploring),
        seen(alone),
        at(alone),
        f"{len(tuned['successes'])} of {tuned['episodes']}",
        at(tuned),
        name,
    ]


def seen(run: Result) -> str:
    """The share of cells at the run's end."""
    return f"{list(run['coverage'].values())[-1]:.0%}"


def at(run: Result) -> str:
    """The agent step of the first success."""
    return "none" if run["first_success"] is None else f"{run['first_success']:,}"


def page(text: str) -> str:
    """The page with the tables between their two marks."""
    tables = f"{ppo_table(results_of('ppo-in-a-dream'))}\n\n{explored_table(results_of('explore-door'))}"
    return between(text, BEGIN, END, tables)


def main() -> None:
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    main()
