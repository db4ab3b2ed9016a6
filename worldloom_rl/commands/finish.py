"""What a run leaves for a person when it ends: what its model foresees, a model card, and what to do next."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from worldloom_rl.commands.console import say
from worldloom_rl.commands.imagine import imagine
from worldloom_rl.commands.trained import open_run
from worldloom_rl.pretrained.model_card import model_card
from worldloom_rl.report.examination import VALUE_HEADS
from worldloom_rl.training import loop
from worldloom_rl.training.run_directory import CURVE_FILE, IMAGINATION_FILE, RESULT_FILE


def finish_run(path: Path) -> None:
    """Draw what the trained model foresees, write the model card, and say where to look and what to do next."""
    recipe, run = open_run(path)
    try:
        imagine(path, seed=loop.read_config(recipe, run).seed)
    except ValueError as error:  # an episode too short for a context
        say(f"No picture of imagination: {error}")
    model = run.checkpoints.latest() / "model"
    result = json.loads((path / RESULT_FILE).read_text())
    played = result if result["final_returns"] else None
    card = model_card(str(path), json.loads((model / "config.json").read_text()), result["parameters"], played)
    (path / "README.md").write_text(card)
    quoted = shlex.quote(str(path))
    weak = f"  worldloom report {quoted}   find which part of the model is weak\n" * (recipe.name in VALUE_HEADS)
    drawn = f"{IMAGINATION_FILE}, " if (path / IMAGINATION_FILE).exists() else ""
    say(
        f"{path} holds {CURVE_FILE}, {drawn}README.md (the model card), {RESULT_FILE}, logs and "
        f"checkpoints.\nNext:\n  worldloom eval {quoted}     "
        f"{'play more episodes, with an interval' if played else 'measure its predictions again'}\n"
        f"  worldloom imagine {quoted}  draw what it foresees in another episode (--seed 1)\n{weak}"
        f"  worldloom resume {quoted}   go on from the newest checkpoint, if a run was stopped"
    )
