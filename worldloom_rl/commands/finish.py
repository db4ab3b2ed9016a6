"""What a run leaves for a person when it ends: what its model foresees, a model card, and what to do next."""

from __future__ import annotations

import json
from pathlib import Path

from worldloom_rl import ranks
from worldloom_rl.atomic import write_text
from worldloom_rl.commands.console import say, typed
from worldloom_rl.commands.imagine import imagine
from worldloom_rl.commands.trained import open_run
from worldloom_rl.pretrained.model_card import model_card
from worldloom_rl.report.examination import VALUE_HEADS
from worldloom_rl.training import loop
from worldloom_rl.training.run_directory import CURVE_FILE, IMAGINATION_FILE, RESULT_FILE

_CARD = "README.md"


def is_told(path: Path) -> bool:
    """Whether `finish_run` came to its end here."""
    return (path / _CARD).exists()


def finish_run(path: Path) -> None:
    """Draw what the trained model foresees, write the model card, and say where to look and what to do next.

    Of several processes the first does that.
    """
    if ranks.rank():
        return
    recipe, run = open_run(path)
    try:
        imagine(path, seed=loop.read_config(recipe, run).seed)
    except ValueError as error:  # an episode too short for a context
        say(f"No picture of imagination: {error}")
    model = run.checkpoints.latest() / "model"
    result = json.loads((path / RESULT_FILE).read_text())
    played = result if result["final_returns"] else None
    card = model_card(str(path), json.loads((model / "config.json").read_text()), result["parameters"], played)
    write_text(path / _CARD, card)
    nexts = [
        (typed("eval", path), "play more episodes, with an interval" if played else "measure its predictions again"),
        (typed("imagine", path), "draw what it foresees in another episode (--seed 1)"),
        *[(typed("report", path), "find which part of the model is weak")] * (recipe.name in VALUE_HEADS),
        (run.resume_command, "take it further (--steps), or go on if it was stopped"),
    ]
    longest = max(len(command) for command, _ in nexts)
    drawn = f"{IMAGINATION_FILE}, " if (path / IMAGINATION_FILE).exists() else ""
    say(f"{path} holds {CURVE_FILE}, {drawn}README.md (the model card), {RESULT_FILE}, logs and checkpoints.\nNext:")
    for command, purpose in nexts:
        say(f"  {command:{longest}}  {purpose}")
