"""The tables of what learned from recordings, or began with trained weights, in the results that were kept.

`python tests/learning/recorded.py` renews them on the page; `python tests/learning/recorded.py FOLDER` first keeps each
finished run under that folder, as `keep_run.py` does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from keep_run import keep
from table import PAGE, RESULTS, between, number, task_of, title

BEGIN, END = "<!-- recorded.py -->", "<!-- end of recorded.py -->"
ALONE = (
    "family, task", "seed", "updates", "mean return", "behaviour's mean", "the run's own agent", "random policy",
    "of the way", "file",
)  # fmt: skip
TUNED = (
    "family, task", "seed", "began with", "to reach", "steps, fine-tuned", "steps, from nothing", "last, fine-tuned",
    "last, from nothing", "files",
)  # fmt: skip
REACHED = {"Pendulum-v1": -250.0, "dmc:cartpole-swingup": 250.0}  # the mean return that an evaluation has to reach

Result = dict[str, Any]


def kept_results(directory: Path) -> dict[str, Result]:
    """The results that runs wrote, by the names of their files."""
    found = {file.name: json.loads(file.read_text()) for file in sorted(directory.glob("*.json"))}
    return {name: result for name, result in found.items() if "recipe" in result and "evaluations" in result}


def tables(results: dict[str, Result]) -> str:
    """Markdown: agents of recordings alone by task, then fine-tuned ones beside those that began from nothing."""
    return "\n\n".join(
        [markdown(ALONE, [row for name in results for row in alone(name, results[name])]), tuned_table(results)]
    )


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *rows))


def alone(name: str, result: Result) -> Iterator[list[str]]:
    """A row for each task of an agent that collected nothing."""
    if result.get("clock") != "updates":
        return
    for task, found in result.get("by_task", {}).items():
        returned, random = fmean(found["returns"]), fmean(found["random_returns"])
        own = fmean(found["runs"].values()) if found["runs"] else None
        yield [
            f"{title(result['recipe'])}, {' '.join([task, *result['config']['env_kwargs']])}",
            str(result["config"]["seed"]),
            f"{result['updates']:,}",
            number(returned),
            number(fmean(found["behaviour_returns"])),
            number(own),
            number(random),
            "" if own is None else f"{of_the_way(returned, random, own):.0%}",
            name,
        ]


def of_the_way(returned: float, random: float, own: float) -> float:
    """How far a return is on the way from a random policy's to that of the agent whose replay was learned from."""
    return (returned - random) / (own - random)


def tuned_table(results: dict[str, Result]) -> str:
    """A row for each run that began with trained weights."""
    rows = []
    for name, result in results.items():
        config = result["config"]
        if not (began := config.get("started_from")):
            continue
        other = from_nothing(result, results)
        fresh = results[other] if other else None
        least = REACHED.get(config["env"])
        rows.append(
            [
                f"{title(result['recipe'])}, {task_of(config)}, `{config['preset']}`",
                str(config["seed"]),
                Path(began).name,
                number(least),
                first_at(result, least),
                first_at(fresh, least),
                number(result["final_mean_return"]),
                number(fresh["final_mean_return"]) if fresh else "",
                ", ".join(filter(None, [name, other])),
            ]
        )
    return markdown(TUNED, rows)


def from_nothing(tuned: Result, results: dict[str, Result]) -> str | None:
    """The file of the run that learned the same as a fine-tuned one with the same seed, but began from nothing."""
    same = ("env", "env_kwargs", "preset", "overrides", "seed", "time_limit")
    for name, result in results.items():
        config = result["config"]
        if result["recipe"] == tuned["recipe"].removesuffix("-finetune") and all(
            (config.get(field) or None) == (tuned["config"].get(field) or None) for field in same
        ):
            return name
    return None


def first_at(result: Result | None, least: float | None) -> str:
    """Environment steps before the first evaluation whose mean return reaches that."""
    if result is None or least is None:
        return ""
    repeat = result["environment_steps"] // result["agent_steps"] if result["agent_steps"] else 1
    for made in result["evaluations"]:
        if fmean(made["returns"]) >= least:
            return f"{made['agent_steps'] * repeat:,}"
    return f"not in {result['environment_steps']:,}"


def page(text: str, results: dict[str, Result]) -> str:
    """The page with the tables between their two marks."""
    return between(text, BEGIN, END, tables(results))


def main(folders: list[str]) -> None:
    for result in sorted(file for folder in folders for file in Path(folder).glob("*/result.json")):
        sys.stdout.write(f"{result.parent.name} is kept as {keep(result.parent).name}\n")
    PAGE.write_text(page(PAGE.read_text(), kept_results(RESULTS)))


if __name__ == "__main__":
    main(sys.argv[1:])
