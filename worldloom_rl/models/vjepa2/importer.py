"""Official V-JEPA 2 checkpoints (`.pt`): action-conditioned ones as our world model, others as an encoder.

Sizes are read from the tensors; `ImportSettings` holds what tensors do not tell. The match of names and shapes is
strict, and a file can bring nothing but tensors and plain values: an object in it is refused by name and never built.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.atomic import new_directory, require_replaceable
from worldloom_rl.models.vjepa2.encoder import VJEPA2Encoder, require_transformers
from worldloom_rl.models.vjepa2.model import ACTION_LIMITS, VJEPA2AC
from worldloom_rl.models.vjepa2.official.names import encoder_tensors, masked_predictor_tensors
from worldloom_rl.models.vjepa2.official.settings import ImportSettings as ImportSettings
from worldloom_rl.models.vjepa2.official.sizes import (
    StateDict,
    encoder_shapes,
    pretraining_config,
    pretraining_shapes,
    world_model_config,
)
from worldloom_rl.models.vjepa2.pose import POSE
from worldloom_rl.pretrained.foreign import (
    check_finite,
    check_own_numbers,
    in_single_precision,
    without_wrappers,
)
from worldloom_rl.pretrained.format import holds_a_model, holds_an_encoder
from worldloom_rl.pretrained.tensor_files import read_tensor_file
from worldloom_rl.pretrained.tensors import TensorKind, mismatches, refuse_mismatches, shown


def import_checkpoint(
    checkpoint: str | Path, output: str | Path, settings: ImportSettings | None = None
) -> VJEPA2AC | VJEPA2Encoder:
    """The model of an official checkpoint, also written to the directory `output`.

    An action-conditioned checkpoint (vjepa2-ac-vitg.pt) gives a world model, for `AutoWorldModel.from_pretrained`; one
    of pre-training (vitl.pt, …) an encoder with its masked predictor, for `VJEPA2Encoder.from_pretrained` and for
    transformers. Raises FileNotFoundError, ImportError without transformers, or ValueError naming what is wrong;
    nothing is written then.
    """
    settings = settings or ImportSettings()
    require_replaceable(Path(output), lambda folder: holds_a_model(folder) or holds_an_encoder(folder))
    parts = read_checkpoint(checkpoint)
    if _is_action_conditioned(parts["predictor"]):
        model = world_model_from(parts, settings)
        model.save_pretrained(output)
        return model
    encoder, whole = encoder_from(parts, settings)
    with new_directory(Path(output), replaces=holds_an_encoder) as folder:
        whole.save_pretrained(folder)  # type: ignore[operator]  # transformers' method
    return encoder


def read_checkpoint(checkpoint: str | Path) -> dict[str, StateDict]:
    """The state dicts "encoder", "target_encoder" (those that are there) and "predictor" of an official file.

    Names lose the prefixes "module." and "backbone.", and tables of positions, which rotation makes useless, go.
    """
    content = read_tensor_file(checkpoint, "V-JEPA 2")
    if not isinstance(content, dict) or "predictor" not in content or not {"encoder", "target_encoder"} & set(content):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{checkpoint} is no official V-JEPA 2 checkpoint: it needs 'predictor' and 'encoder' or 'target_encoder', "
            f"but holds {found}."
        )
    names = ("encoder", "target_encoder", "predictor")
    return {name: _clean(content[name], name) for name in names if content.get(name) is not None}


def world_model_from(parts: Mapping[str, StateDict], settings: ImportSettings) -> VJEPA2AC:
    """The world model of an action-conditioned checkpoint's state dicts.

    Its encoder is "encoder", as the official loader has it: fine-tuned with the predictor, and not the one of the
    pre-training files. "target_encoder" is taken where that is the only one.
    """
    key = "encoder" if "encoder" in parts else "target_encoder"
    encoder, predictor = parts[key], parts["predictor"]
    config = world_model_config(encoder, predictor, settings, key)
    _check(encoder, encoder_shapes(config), key)
    low, high = (torch.tensor(ACTION_LIMITS) * sign for sign in (-1, 1))
    specs = Composite(
        {
            settings.pixels_key: Unbounded((3, settings.image_size, settings.image_size), dtype=torch.uint8),
            settings.pose_key: Unbounded((POSE,)),
        }
    )
    if settings.use_extrinsics:
        specs["extrinsics"] = Unbounded((POSE - 1,))
    arguments = (config, specs, Composite({settings.action_key: Bounded(low, high, dtype=torch.float32)}))
    with torch.device("meta"):
        expected = VJEPA2AC(*arguments).predictor.state_dict()
    _check(predictor, {name: tuple(x.shape) for name, x in expected.items()}, "predictor")
    model = VJEPA2AC(*arguments)
    model.encoder.encoder.load_state_dict(encoder_tensors(encoder), strict=True)
    model.predictor.load_state_dict(predictor, strict=True)
    return model


def encoder_from(parts: Mapping[str, StateDict], settings: ImportSettings) -> tuple[VJEPA2Encoder, nn.Module]:
    """The encoder of a pre-training checkpoint with its masked predictor, and both as transformers' `VJEPA2Model`.

    It is "target_encoder", the moving average that the official loader takes; "encoder" where that is the only one.
    """
    key = "target_encoder" if "target_encoder" in parts else "encoder"
    encoder, predictor = parts[key], parts["predictor"]
    config = pretraining_config(encoder, predictor, settings, key)
    encoder_needs, predictor_needs = pretraining_shapes(config)
    _check(encoder, encoder_needs, key)
    _check(predictor, predictor_needs, "predictor")
    whole = require_transformers().VJEPA2Model(config)
    whole.encoder.load_state_dict(encoder_tensors(encoder), strict=True)
    whole.predictor.load_state_dict(masked_predictor_tensors(predictor), strict=True)
    return VJEPA2Encoder.of_model(whole, masked_predictor=True), whole


def _is_action_conditioned(predictor: StateDict) -> bool:
    return any(name.startswith(("action_encoder.", "state_encoder.")) for name in predictor)


def _clean(tensors: object, part: str) -> StateDict:
    """The part's tensors by their names without prefixes, in single precision; positions are dropped."""
    if not isinstance(tensors, Mapping):
        raise ValueError(f"The checkpoint's {part!r} is a {type(tensors).__name__}, but named tensors are expected.")
    cleaned: StateDict = {}
    for name, tensor in without_wrappers(tensors, lambda names: True).items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(f"The entry {shown(name)} of the checkpoint's {part!r} is no real tensor with a name.")
        short = name.removeprefix("backbone.")
        if short in cleaned:
            raise ValueError(f"The checkpoint's {part!r} has the tensor {shown(short)} under several prefixes.")
        cleaned[short] = tensor
    cleaned = {name: x for name, x in cleaned.items() if name not in ("pos_embed", "predictor_pos_embed")}
    check_own_numbers(cleaned)
    return in_single_precision(cleaned)


def _check(tensors: StateDict, expected: Mapping[str, tuple[int, ...]], part: str) -> None:
    """Raise ValueError unless exactly the expected tensors are there, with their shapes, of finite numbers."""
    found = {name: TensorKind(tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()}
    needed = {name: TensorKind(shape, str(torch.float32)) for name, shape in expected.items()}
    refuse_mismatches(mismatches(found, needed), f"This is no V-JEPA 2 checkpoint that we know: its {part!r}")
    check_finite(tensors, f"The checkpoint's {part!r}")
