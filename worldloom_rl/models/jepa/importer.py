"""LeWM's checkpoints (a directory with `config.json` and `weights.pt`, as its authors publish them) as our JEPA.

Sizes are read from the tensors, and from config.json the few numbers that these do not tell. What it names to be built
(`_target_`) is never looked at, and a file can bring nothing but tensors: an object in it is refused by name.

Reference: lucas-maes/le-wm and galilai-group/stable-worldmodel, whose codes were read for the layout; no published
file was at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

import torch
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.atomic import require_replaceable
from worldloom_rl.config import Json
from worldloom_rl.models.jepa.model import JEPA
from worldloom_rl.models.jepa.official.names import current_name, official_shapes, our_tensors
from worldloom_rl.models.jepa.official.settings import ImportSettings as ImportSettings
from worldloom_rl.models.jepa.official.sizes import action_columns, action_width, describe
from worldloom_rl.pretrained.foreign import check_finite, check_own_numbers, find_state_dict, in_single_precision
from worldloom_rl.pretrained.format import holds_a_model, read_json
from worldloom_rl.pretrained.tensor_files import read_tensor_file
from worldloom_rl.pretrained.tensors import TensorKind, mismatches, refuse_mismatches, shown

_CONFIG_FILE = "config.json"
_WEIGHTS_FILES = ("weights.pt", "weights.ckpt", "model.safetensors")
_UNUSED = "encoder.pooler."  # transformers' ViT has it unless told otherwise; LeWM takes the class token as it is


def import_checkpoint(checkpoint: str | Path, output: str | Path, settings: ImportSettings | None = None) -> JEPA:
    """The model of a LeWM checkpoint, also written to the directory `output` as `save_pretrained` does.

    Args:
        checkpoint: the directory with config.json and weights.pt, or the file of the weights beside config.json.
    Raises FileNotFoundError, or ValueError naming what is wrong; nothing is written then.
    """
    require_replaceable(Path(output), holds_a_model)
    folder, weights = _files(Path(checkpoint))
    if not (folder / _CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{folder} holds no {_CONFIG_FILE}; LeWM's stands beside its weights.")
    numbers = read_json(folder / _CONFIG_FILE)
    if not isinstance(numbers, dict):
        raise ValueError(f"{folder / _CONFIG_FILE} holds no object with LeWM's numbers.")
    model = model_from_state_dict(read_checkpoint(weights), numbers, settings)
    model.save_pretrained(output)
    return model


def read_checkpoint(weights: str | Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, by the names that LeWM's code has now, in single precision.

    Raises ValueError if the file is something else, or an entry is no tensor.
    """
    found = find_state_dict(read_tensor_file(weights, "LeWM"), _is_lewm, str(weights))
    tensors: dict[str, Tensor] = {}
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{weights}: the entry {shown(name)} is a {type(value).__name__}, no tensor.")
        if not name.startswith(_UNUSED):
            tensors[current_name(name)] = value
    check_own_numbers(tensors)
    return in_single_precision(tensors)


def model_from_state_dict(
    tensors: Mapping[str, Tensor], numbers: Mapping[str, Json], settings: ImportSettings | None = None
) -> JEPA:
    """The model with the weights of LeWM's state dict.

    Args:
        numbers: what LeWM's config.json holds.
    Raises ValueError naming every missing, extra or mis-shaped tensor.
    """
    settings = settings or ImportSettings()
    config, side = describe(tensors, numbers, settings)
    width = action_width(tensors)
    mean = action_columns(settings.action_mean, width, "action_mean", 0.0)
    std = action_columns(settings.action_std, width, "action_std", 1.0)
    specs = (
        Composite({settings.pixels_key: Unbounded((3, side, side), dtype=torch.uint8)}),
        Composite({settings.action_key: Bounded(-1.0, 1.0, (width,), dtype=torch.float32)}),
    )
    with torch.device("meta"):
        ours = JEPA(config, *specs).state_dict()
    needed = {name: TensorKind(shape) for name, shape in official_shapes(ours).items()}
    found = {name: TensorKind(tuple(tensor.shape)) for name, tensor in tensors.items()}
    refuse_mismatches(mismatches(found, needed), "This is no LeWM checkpoint that we know: it")
    check_finite(tensors, "The checkpoint")
    model = JEPA(config, *specs)
    model.load_state_dict({**model.state_dict(), **our_tensors(tensors, ours)})
    model.action_encoder.normalize(torch.tensor(mean), torch.tensor(std))
    return model.eval()


def _files(checkpoint: Path) -> tuple[Path, Path]:
    """The directory, and the file of weights in it."""
    if not checkpoint.is_dir():
        return checkpoint.parent, checkpoint
    found = [checkpoint / name for name in _WEIGHTS_FILES if (checkpoint / name).is_file()]
    if len(found) != 1:
        raise ValueError(
            f"{checkpoint} holds {[file.name for file in found] or 'no weights'}: one of {list(_WEIGHTS_FILES)} is "
            "expected beside config.json; name the file that is meant."
        )
    return checkpoint, found[0]


def _is_lewm(names: Set[str]) -> bool:
    return not names.isdisjoint({"action_encoder.patch_embed.weight", "pred_proj.net.0.weight"})
