"""Official TD-MPC2 checkpoints (`.pt`) as our models: current files and those of the first release.

All sizes are read from the tensors; `ImportSettings` holds what tensors do not tell. The match of names and shapes is
strict, and a file can bring nothing but tensors: an object in it is refused by name and never built.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from worldloom_rl.atomic import require_replaceable
from worldloom_rl.models.tdmpc2.model import TDMPC2
from worldloom_rl.models.tdmpc2.official.names import ENSEMBLES, has_official_layers, official_name
from worldloom_rl.models.tdmpc2.official.settings import ImportSettings as ImportSettings
from worldloom_rl.models.tdmpc2.official.sizes import Source, describe
from worldloom_rl.pretrained.foreign import check_finite, find_state_dict, tensors_of, without_wrappers
from worldloom_rl.pretrained.format import holds_a_model
from worldloom_rl.pretrained.tensor_files import read_tensor_file
from worldloom_rl.pretrained.tensors import TensorKind, mismatches, refuse_mismatches


def import_checkpoint(checkpoint: str | Path, output: str | Path, settings: ImportSettings | None = None) -> TDMPC2:
    """The model of an official checkpoint, also written to the directory `output` as `save_pretrained` does.

    Raises FileNotFoundError, or ValueError naming the first thing that is wrong; nothing is written then.
    """
    require_replaceable(Path(output), holds_a_model)
    model = model_from_state_dict(read_checkpoint(checkpoint), settings)
    model.save_pretrained(output)
    return model


def read_checkpoint(checkpoint: str | Path) -> dict[str, object]:
    """The state dict of a file that the official `agent.save` wrote; tensors stay on disk until they are read.

    It may stand beside other things, such as an optimiser's, and under the names of wrappers. Raises ValueError if the
    file is something else, has several, or holds any object but tensors, sizes, devices and plain values.
    """
    return find_state_dict(read_tensor_file(checkpoint, "TD-MPC2"), has_official_layers, str(checkpoint))


def model_from_state_dict(state_dict: Mapping[str, object], settings: ImportSettings | None = None) -> TDMPC2:
    """The model with the weights of an official state dict, in either naming.

    Raises ValueError naming every missing, extra or mis-shaped tensor and every entry that is no tensor.
    """
    settings = settings or ImportSettings()
    source = Source(tensors_of(_without_notes(without_wrappers(state_dict, has_official_layers))))
    if source.has("_Qs.online."):
        raise ValueError("The checkpoint has '_Qs.online.…', as those of newt do: worldloom import newt.")
    config, observation_spec, action_spec = describe(source, settings)
    with torch.device("meta"):
        ours = TDMPC2(config, observation_spec, action_spec).state_dict()
    names = {official_name(name): name for name in ours}
    expected = {official: tuple(ours[name].shape) for official, name in names.items()}
    if not source.legacy:
        online = {name: shape for name, shape in expected.items() if name.startswith("_Qs.params.")}
        expected |= {name.replace("_Qs.params", "_detach_Qs_params"): shape for name, shape in online.items()}
        expected |= {"log_std_min": (), "log_std_dif": ()}
        if config.num_tasks:
            expected["_action_masks"] = (config.num_tasks, ours["behavior.policy.2.bias"].shape[0] // 2)
    _check(source, expected)
    check_finite({source.spelled(name): tensor for name, tensor in source.tensors.items()}, "The checkpoint")
    model = TDMPC2(config, observation_spec, action_spec)
    model.load_state_dict({name: source.tensors[official] for official, name in names.items()}, strict=True)
    return model


def _without_notes(state_dict: Mapping[str, object]) -> dict[str, object]:
    """The entries without tensordict's notes on batch size and device."""
    kept: dict[str, object] = {}
    for name, value in state_dict.items():
        prefix, _, last = str(name).rpartition(".")
        noted = (last == "__batch_size" and isinstance(value, torch.Size)) or (
            last == "__device" and (value is None or isinstance(value, torch.device))
        )
        if prefix not in ENSEMBLES or not noted:
            kept[name] = value
    return kept


def _check(source: Source, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless exactly the expected tensors are there, with their shapes and of the right type."""
    found = {
        source.spelled(name): TensorKind(tuple(tensor.shape), str(tensor.dtype))
        for name, tensor in source.tensors.items()
    }
    needed = {
        source.spelled(name): TensorKind(shape, None if name.startswith("log_std_") else str(torch.float32))
        for name, shape in expected.items()
    }
    refuse_mismatches(mismatches(found, needed), "This is no official TD-MPC2 checkpoint: it")
