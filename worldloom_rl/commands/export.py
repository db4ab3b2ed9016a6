"""`worldloom export`: a model's actor as programs that run without this library."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from worldloom_rl.commands.trained import TrainedRun
    from worldloom_rl.config import Json
    from worldloom_rl.planners import Planner
    from worldloom_rl.specs.actions import ActionSegment, ActionSpace
    from worldloom_rl.world_model import WorldModel
    from worldloom_rl.world_model.acting import ActingStep, Port

ONNX_FILE, PROGRAM_FILE, DESCRIPTION_FILE = "policy.onnx", "policy.pt2", "policy.json"
FORMAT = 1
_BATCH = "batch"


def export(
    run: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.Positional],
    plan: bool = False,
    sample: bool = False,
    trust: bool = False,
) -> None:
    """Write how a model acts as policy.onnx, policy.pt2 (torch.export) and policy.json, which names inputs and outputs.

    A plan is written as policy.pt2 alone.

    Args:
        run: a run, of which the newest checkpoint acts, or a directory that holds a model.
        output: a directory that is not there yet.
        plan: act by the model's planner, whose noise goes in and whose warm start is carried, not by its actor.
        sample: draw latents and actions from noise that goes in, instead of taking the likeliest; plans explore.
        trust: the run is somebody else's, and may import the module that its config.json names, now and later.
    """
    from worldloom_rl.atomic import new_directory, write_json
    from worldloom_rl.commands.console import say
    from worldloom_rl.extras import require_installed

    for package in () if plan else ("onnx", "onnxscript"):
        require_installed(package, extra="export", why=f"ONNX is written by {package}")
    if output.exists() or output.is_symlink():
        raise FileExistsError(f"{output} is there already; choose a name that is not.")
    from worldloom_rl.world_model.acting import ActingStep

    model, trained = _opened(run, trust)
    model.cpu()
    step = ActingStep(model, sample=sample, planner=_planner(model, trained) if plan else None)
    with new_directory(output) as folder:
        program = write_program(step, folder)
        if not plan:
            write_onnx(step, program, folder)
        write_json(folder / DESCRIPTION_FILE, describe(step, trained))
    written = PROGRAM_FILE if plan else f"{ONNX_FILE}, {PROGRAM_FILE}"
    say(f"Wrote {output}: {written} and {DESCRIPTION_FILE}, which says what goes in and out.")


def _opened(path: Path, trust: bool) -> tuple[WorldModel, TrainedRun | None]:
    from worldloom_rl.auto import AutoWorldModel
    from worldloom_rl.commands.trained import newest
    from worldloom_rl.data.run_episodes import is_run

    if not is_run(path):
        return AutoWorldModel.from_pretrained(path), None
    trained = newest(path, trust=trust)
    return trained.model, trained


def _planner(model: WorldModel, trained: TrainedRun | None) -> Planner:
    """The planner by which a model acts, of a run as its recipe has it. Raises ValueError if it cannot be exported."""
    from worldloom_rl.planners import Planner

    policy = model.make_policy() if trained is None else trained.recipe.make_policy(model)
    for part in policy:
        if isinstance(part, Planner):
            if part.execute == 1:
                return part
            raise ValueError(
                f"The planner executes {part.execute} actions of a plan, but a program plans at every step: it takes a "
                "model with execute=1."
            )
    raise ValueError(f"{type(model).__name__} acts by its actor, without plans: leave --plan out.")


def write_program(step: ActingStep, folder: Path) -> ExportedProgram:
    """policy.pt2, for batches of any size."""
    import torch

    step.requires_grad_(False)
    given = tuple(torch.zeros(port.sized(2), dtype=port.dtype) for port in step.inputs)
    batch = torch.export.Dim(_BATCH, min=1)
    shapes = {"tensors": tuple({} if port.batch is None else {port.batch: batch} for port in step.inputs)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own future
        program = torch.export.export(step, given, dynamic_shapes=shapes, strict=False)
        torch.export.save(program, folder / PROGRAM_FILE)
    return program


def write_onnx(step: ActingStep, program: ExportedProgram, folder: Path) -> None:
    """policy.onnx, the same in another form."""
    import torch

    names = [port.name for port in step.inputs], [port.name for port in step.outputs]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        written = torch.onnx.export(program, input_names=names[0], output_names=names[1], dynamo=True, verbose=False)
        assert written is not None
        written.save(folder / ONNX_FILE)


def describe(step: ActingStep, trained: TrainedRun | None) -> Json:
    """What policy.json says."""
    from importlib.metadata import version

    from worldloom_rl.world_model.acting import NEXT

    model = step.model
    inputs = [_port(port) for port in step.inputs]
    for port in inputs:
        if port["kind"] == "carried":
            port["from"] = NEXT + port["name"]  # at an episode's first step: zeros
    return {
        "format": FORMAT,
        "written_by": f"worldloom-rl {version('worldloom-rl')}",
        "model": model.model_type,
        "environment": None if trained is None else {"name": trained.played, **trained.config.env_options()},
        "randomness": "input" if step.takes_draws else "mode",
        "inputs": inputs,
        "outputs": [_port(port) for port in step.outputs],
        "actions": [
            {"name": port.name, **_bounds(model.action_space, part)}
            for port, part in zip(step.outputs, model.action_space.segments, strict=False)
        ],
    }


def _bounds(space: ActionSpace, part: ActionSegment) -> dict[str, Json]:
    """The classes of each choice, or the least and the largest real number."""
    if part.categories:
        return {"classes": list(part.categories)}
    bounds = {"low": space.low, "high": space.high}
    return {name: bound[part.start : part.stop].reshape(part.shape).tolist() for name, bound in bounds.items()}


def _port(port: Port) -> dict[str, Json]:
    dtype = str(port.dtype).removeprefix("torch.")
    shape: list[Json] = [*port.shape]
    if port.batch is not None:
        shape.insert(port.batch, _BATCH)
    return {"name": port.name, "kind": port.kind, "shape": shape, "dtype": dtype}
