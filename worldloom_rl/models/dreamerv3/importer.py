"""Official DreamerV3 checkpoints (`agent.pkl`) as our models.

Sizes are read from the arrays, numbers from the run's config.yaml where it lies beside them. The match of names and
shapes is strict, and a file can bring nothing but arrays: any other object in it is refused by name and never built.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from worldloom_rl.atomic import require_replaceable
from worldloom_rl.config import Json
from worldloom_rl.models.dreamerv3.config import DreamerV3Config as DreamerV3Config
from worldloom_rl.models.dreamerv3.model import DreamerV3
from worldloom_rl.models.dreamerv3.official.arrays import read_checkpoint
from worldloom_rl.models.dreamerv3.official.names import counterparts, load_official
from worldloom_rl.models.dreamerv3.official.numbers import read_config
from worldloom_rl.models.dreamerv3.official.settings import ImportSettings as ImportSettings
from worldloom_rl.models.dreamerv3.official.sizes import Sizes, describe
from worldloom_rl.pretrained.foreign import check_finite
from worldloom_rl.pretrained.format import holds_a_model
from worldloom_rl.pretrained.tensors import TensorKind, mismatches, refuse_mismatches


def import_checkpoint(source: str | Path, output: str | Path, settings: ImportSettings | None = None) -> DreamerV3:
    """The model of an official checkpoint, also written to the directory `output` as `save_pretrained` does.

    Args:
        source: the log directory of a run, which holds ckpt/ and config.yaml, or an agent.pkl.
    Raises FileNotFoundError, or ValueError naming what is wrong; nothing is written then.
    """
    require_replaceable(Path(output), holds_a_model)
    agent, config_file = _locate(Path(source))
    numbers = {} if config_file is None else read_config(config_file)
    model = model_from_arrays(read_checkpoint(agent), settings, numbers)
    model.save_pretrained(output)
    return model


def _locate(source: Path) -> tuple[Path, Path | None]:
    """agent.pkl and, if there is one, the run's config.yaml."""
    if source.is_dir():
        folder = next((place for place in (source / "ckpt", source / "ckpt" / "agent", source) if _latest(place)), None)
        if folder is not None:
            source_folder = folder / _latest(folder)
            if not (source_folder / "done").is_file():
                raise ValueError(f"The checkpoint {source_folder} is incomplete: it has no file 'done'.")
        else:
            source_folder = source
        agent = source_folder / "agent.pkl"
        if not agent.is_file():
            raise FileNotFoundError(f"{source} holds no DreamerV3 checkpoint: there is no {agent}.")
    else:
        agent = source
        if not agent.is_file():
            raise FileNotFoundError(f"There is no checkpoint {agent}.")
    config = next((folder / "config.yaml" for folder in agent.parents[:4] if (folder / "config.yaml").is_file()), None)
    return agent, config


def _latest(folder: Path) -> str:
    """The newest checkpoint's name in a folder of them; empty if it is no such folder."""
    file = folder / "latest"
    name = file.read_text().strip() if file.is_file() else ""
    if name and (Path(name).name != name or name == ".."):
        raise ValueError(f"{file} should hold the name of a folder beside it, got {name!r:.100}.")
    return name


def model_from_arrays(
    arrays: Mapping[str, np.ndarray],
    settings: ImportSettings | None = None,
    numbers: Mapping[str, Json] | None = None,
) -> DreamerV3:
    """The model with the weights of official arrays; `numbers` of the configuration count more than the settings.

    Raises ValueError naming every missing, extra or mis-shaped array.
    """
    settings = settings or ImportSettings()
    numbers = {"groups": settings.groups, **(numbers or {})}
    config, observation_spec, action_spec = describe(Sizes(arrays), settings, numbers)
    with torch.device("meta"):
        meta = DreamerV3(config, observation_spec, action_spec)
    ours = meta.state_dict()
    expected = {part.official: tuple(part.save(ours[part.ours]).shape) for part in counterparts(meta)}
    learned = {name: shape for name, shape in expected.items() if not name.startswith(("slowval/", "retnorm/"))}
    counters = ["slowval_count/value"]
    if any(name.startswith("opt/") for name in arrays):  # what the optimiser learned with may be left out as a whole
        for number in (1, 2):
            expected |= {f"opt/state/{number}/1/{name}": shape for name, shape in learned.items()}
        counters += ["opt/step/value", "opt/state/1/0", "opt/state/2/0", "opt/state/3/count"]
    expected |= dict.fromkeys(counters, ())

    found = {name: TensorKind(array.shape, str(array.dtype)) for name, array in arrays.items()}
    kinds = dict.fromkeys(counters, "int32")
    needed = {name: TensorKind(shape, kinds.get(name, "float32")) for name, shape in expected.items()}
    refuse_mismatches(mismatches(found, needed), "This is no official DreamerV3 checkpoint: it", "array")
    model = DreamerV3(config, observation_spec, action_spec)
    tensors = {part.official: torch.from_numpy(arrays[part.official].copy()) for part in counterparts(model)}
    check_finite(tensors, "The checkpoint")
    load_official(model, tensors)
    return model
