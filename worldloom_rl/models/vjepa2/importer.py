"""Official V-JEPA 2 checkpoints (`.pt`): action-conditioned ones as our world model, others as an encoder.

Sizes are read from the tensors; `ImportSettings` holds what tensors do not tell. The match of names and shapes is
strict, and a file can bring nothing but tensors and plain values: an object in it is refused by name and never built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.models.vjepa2.config import VJEPA2ACConfig, mlp_ratio
from worldloom_rl.models.vjepa2.encoder import VJEPA2Encoder, require_transformers
from worldloom_rl.models.vjepa2.import_settings import ImportSettings as ImportSettings
from worldloom_rl.models.vjepa2.model import ACTION_LIMITS, VJEPA2AC
from worldloom_rl.models.vjepa2.official_names import encoder_tensors, masked_predictor_tensors
from worldloom_rl.models.vjepa2.pose import POSE
from worldloom_rl.pretrained.files import new_directory, read_tensor_file

_HEADS = {1024: 16, 1280: 16, 1408: 22, 384: 12}  # of the released encoders and predictors, by their width
_FRAMES = 64  # of a clip in pre-training; transformers keeps the number and does not use it

StateDict = dict[str, Tensor]


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
    parts = read_checkpoint(checkpoint)
    if _is_action_conditioned(parts["predictor"]):
        model = world_model_from(parts, settings)
        model.save_pretrained(output)
        return model
    encoder, whole = encoder_from(parts, settings)
    with new_directory(Path(output)) as folder:
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
    patch = _shape(encoder, "patch_embed.proj.weight", 5, key)
    actions = _shape(predictor, "action_encoder.weight", 2, "predictor")[1]
    if actions != POSE:
        raise ValueError(f"The predictor's actions have {actions} numbers; V-JEPA 2-AC's have {POSE}.")
    width = _shape(predictor, "predictor_embed.weight", 2, "predictor")[0]
    config = VJEPA2ACConfig(
        image_size=settings.image_size,
        patch_size=patch[-1],
        tubelet_size=patch[2],
        encoder_dim=patch[0],
        encoder_depth=_depth(encoder, "blocks", key),
        encoder_heads=settings.encoder_heads or _heads(patch[0], "encoder_heads"),
        encoder_mlp_dim=_shape(encoder, "blocks.0.mlp.fc1.weight", 2, key)[0],
        predictor_dim=width,
        predictor_depth=_depth(predictor, "predictor_blocks", "predictor"),
        predictor_heads=settings.predictor_heads or _heads(width, "predictor_heads"),
        predictor_mlp_dim=_shape(predictor, "predictor_blocks.0.mlp.fc1.weight", 2, "predictor")[0],
        use_extrinsics=settings.use_extrinsics,
        history=settings.history,
        context=settings.context,
    )
    _check(encoder, _encoder_shapes(config), key)
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
    patch = _shape(encoder, "patch_embed.proj.weight", 5, key)
    hidden = _shape(encoder, "blocks.0.mlp.fc1.weight", 2, key)[0]
    width = _shape(predictor, "predictor_embed.weight", 2, "predictor")[0]
    predictor_hidden = _shape(predictor, "predictor_blocks.0.mlp.fc1.weight", 2, "predictor")[0]
    config = require_transformers().VJEPA2Config(
        crop_size=settings.image_size,
        frames_per_clip=_FRAMES,
        patch_size=patch[-1],
        tubelet_size=patch[2],
        hidden_size=patch[0],
        num_hidden_layers=_depth(encoder, "blocks", key),
        num_attention_heads=settings.encoder_heads or _heads(patch[0], "encoder_heads"),
        mlp_ratio=mlp_ratio(patch[0], hidden),
        pred_hidden_size=width,
        pred_num_hidden_layers=_depth(predictor, "predictor_blocks", "predictor"),
        pred_num_attention_heads=settings.predictor_heads or _heads(width, "predictor_heads"),
        pred_mlp_ratio=mlp_ratio(width, predictor_hidden),
        pred_num_mask_tokens=sum(name.startswith("mask_tokens.") for name in predictor),
    )
    sizes = (config.patch_size, config.tubelet_size, config.num_hidden_layers)
    _check(encoder, _transformer_shapes("blocks", patch[0], hidden, sizes), key)
    shapes = _block_shapes("predictor_blocks", config.pred_num_hidden_layers, width, predictor_hidden)
    shapes |= {"predictor_embed.weight": (width, patch[0]), "predictor_embed.bias": (width,)}
    shapes |= {"predictor_norm.weight": (width,), "predictor_norm.bias": (width,)}
    shapes |= {"predictor_proj.weight": (patch[0], width), "predictor_proj.bias": (patch[0],)}
    shapes |= {f"mask_tokens.{i}": (1, 1, width) for i in range(max(config.pred_num_mask_tokens, 1))}
    _check(predictor, shapes, "predictor")
    whole = require_transformers().VJEPA2Model(config)
    whole.encoder.load_state_dict(encoder_tensors(encoder), strict=True)
    whole.predictor.load_state_dict(masked_predictor_tensors(predictor), strict=True)
    return VJEPA2Encoder.of_model(whole, masked_predictor=True), whole


def _is_action_conditioned(predictor: StateDict) -> bool:
    return any(name.startswith(("action_encoder.", "state_encoder.")) for name in predictor)


def _clean(tensors: object, part: str) -> StateDict:
    """The part's tensors by their names without prefixes, in single precision; positions are dropped."""
    if not isinstance(tensors, dict):
        raise ValueError(f"The checkpoint's {part!r} is a {type(tensors).__name__}, but named tensors are expected.")
    cleaned: StateDict = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(f"The entry {name!r} of the checkpoint's {part!r} is no real tensor with a name.")
        short = re.sub(r"^(module\.|backbone\.)+", "", name)
        if short in ("pos_embed", "predictor_pos_embed"):
            continue
        if short in cleaned:
            raise ValueError(f"The checkpoint's {part!r} has the tensor {short!r} under several prefixes.")
        cleaned[short] = tensor.float()
    return cleaned


def _shape(tensors: StateDict, name: str, dimensions: int, part: str) -> tuple[int, ...]:
    """The shape of a tensor that tells sizes."""
    if name not in tensors:
        raise ValueError(f"The checkpoint's {part!r} lacks {name!r}, which tells its size; is it one of V-JEPA 2?")
    shape = tuple(tensors[name].shape)
    if len(shape) != dimensions:
        raise ValueError(f"{name!r} of the checkpoint's {part!r} has shape {shape}, not {dimensions} dimensions.")
    return shape


def _depth(tensors: StateDict, blocks: str, part: str) -> int:
    indices = {int(found[1]) for name in tensors if (found := re.match(rf"{blocks}\.(\d{{1,4}})\.", name))}
    if not indices:
        raise ValueError(f"The checkpoint's {part!r} has no {blocks!r}; is it one of V-JEPA 2?")
    return max(indices) + 1


def _heads(width: int, setting: str) -> int:
    if width not in _HEADS:
        raise ValueError(
            f"No released V-JEPA 2 is {width} wide, and tensors do not tell the number of attention heads: "
            f"give {setting}."
        )
    return _HEADS[width]


def _encoder_shapes(config: VJEPA2ACConfig) -> dict[str, tuple[int, ...]]:
    sizes = (config.patch_size, config.tubelet_size, config.encoder_depth)
    return _transformer_shapes("blocks", config.encoder_dim, config.encoder_mlp_dim, sizes)


def _transformer_shapes(
    blocks: str, width: int, hidden: int, sizes: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
    """Official names and shapes of an encoder; sizes are those of patch and tubelet, and the depth."""
    patch, tubelet, depth = sizes
    shapes = _block_shapes(blocks, depth, width, hidden)
    shapes |= {"patch_embed.proj.weight": (width, 3, tubelet, patch, patch), "patch_embed.proj.bias": (width,)}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def _block_shapes(blocks: str, depth: int, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    layer = {
        "norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,),
        "mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(depth):
        for name, shape in layer.items():
            shapes[f"{blocks}.{i}.{name}.weight"] = shape
            shapes[f"{blocks}.{i}.{name}.bias"] = shape[:1]
    return shapes


def _check(tensors: StateDict, expected: Mapping[str, tuple[int, ...]], part: str) -> None:
    """Raise ValueError unless exactly the expected tensors are there, with their shapes."""
    wrong = [f"lacks {name!r} of shape {expected[name]}" for name in expected if name not in tensors]
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if name not in expected:
            wrong.append(f"has the extra tensor {name!r} of shape {shape}")
        elif shape != expected[name]:
            wrong.append(f"has {name!r} of shape {shape} where {expected[name]} is needed")
    if wrong:
        more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
        raise ValueError(f"This is no V-JEPA 2 checkpoint that we know: its {part!r} {'; it '.join(wrong[:5])}{more}.")
