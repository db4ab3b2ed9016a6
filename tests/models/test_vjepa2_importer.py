"""Official V-JEPA 2 checkpoints come in whole or not at all.

No official file is at hand here: the action-conditioned one is written by the test with the official names and
prefixes, the one of pre-training has the tensors of the official code in tests/reference/data/jepa.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from worldloom_rl import AutoWorldModel
from worldloom_rl.cli import main
from worldloom_rl.models.vjepa2 import VJEPA2AC, VJEPA2Encoder
from worldloom_rl.models.vjepa2.config import PRESETS
from worldloom_rl.models.vjepa2.importer import ImportSettings, import_checkpoint

pytest.importorskip("transformers")

DATA = Path(__file__).parents[1] / "reference" / "data"
GOLDEN = Path(os.environ.get("WORLDLOOM_REFERENCE_DIR", DATA)) / "jepa" / "vjepa2_encoder.safetensors"
SETTINGS = ImportSettings(image_size=32, encoder_heads=2, predictor_heads=2, history=3, context=2)
MASKED = ImportSettings(image_size=32, encoder_heads=2, predictor_heads=2)

Checkpoint = dict[str, Any]


def official_encoder(model: VJEPA2AC) -> dict[str, Tensor]:
    """The encoder's tensors under the official names, written without the importer's rules."""
    ours = model.encoder.encoder.state_dict()
    official = {}
    for name, tensor in ours.items():
        found = re.fullmatch(r"layer\.(\d+)\.attention\.(query|key|value)\.(weight|bias)", name)
        if found is None:
            short = name.replace("layer.", "blocks.").replace("attention.", "attn.")
            short = short.replace("embeddings.patch_embeddings", "patch_embed").replace("layernorm", "norm")
            official[short] = tensor
        elif found[2] == "query":
            parts = [ours[name.replace("query", part)] for part in ("query", "key", "value")]
            official[f"blocks.{found[1]}.attn.qkv.{found[3]}"] = torch.cat(parts)
    return official


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    return OrderedDict((prefix + name, tensor.clone()) for name, tensor in tensors.items())


@pytest.fixture(scope="module")
def model() -> VJEPA2AC:
    torch.manual_seed(0)
    model = VJEPA2AC(PRESETS["tiny"], *VJEPA2AC.default_specs())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def action_conditioned(model: VJEPA2AC) -> Checkpoint:
    """As app/vjepa_droid/train.py saves it: networks under DistributedDataParallel, optimizer, counters."""
    encoder, predictor = official_encoder(model), dict(model.predictor.state_dict())
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(2)
    optimizer.step()
    return {
        "encoder": prefixed("module.backbone.", {**encoder, "pos_embed": torch.zeros(1, 16, 32)}),
        "predictor": prefixed("module.", {**predictor, "predictor_pos_embed": torch.zeros(1, 16, 32)}),
        "target_encoder": prefixed("module.backbone.", {name: x + 1 for name, x in encoder.items()}),
        "opt": optimizer.state_dict(),
        "scaler": None, "epoch": 315, "loss": 0.5, "batch_size": 8, "world_size": 32, "lr": 1e-4,
    }  # fmt: skip


@pytest.fixture
def pre_trained() -> Checkpoint:
    golden = load_file(GOLDEN)

    def of(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): x for name, x in golden.items() if name.startswith(prefix)}

    return {
        "encoder": prefixed("module.backbone.", {name: x + 1 for name, x in of("encoder/").items()}),
        "predictor": prefixed("module.backbone.", of("predictor/")),
        "target_encoder": prefixed("module.backbone.", of("encoder/")),
        "epoch": 1,
    }


def save(checkpoint: object, directory: Path) -> Path:
    path = directory / "checkpoint.pt"
    torch.save(checkpoint, path)
    return path


def same_numbers(left: VJEPA2AC, right: VJEPA2AC) -> None:
    observation = left.observation_spec.rand((3,))
    observation.update(left.action_spec.rand((3,)))
    with torch.no_grad():
        expected = left.predict(left.encode(observation.clone()))
        found = right.predict(right.encode(observation.clone()))
    for key in left.predict.out_keys:
        assert torch.equal(found.get(key), expected.get(key)), key


def test_an_action_conditioned_checkpoint_becomes_a_world_model(
    model: VJEPA2AC, action_conditioned: Checkpoint, tmp_path: Path
) -> None:
    limits = VJEPA2AC.default_specs()[1]["action"].space.high
    imported = import_checkpoint(save(action_conditioned, tmp_path), tmp_path / "model", SETTINGS)
    loaded = AutoWorldModel.from_pretrained(tmp_path / "model")
    for found in (imported, loaded):
        assert isinstance(found, VJEPA2AC)
        assert found.config == dataclasses.replace(PRESETS["tiny"], iterations=10, num_samples=400)
        assert torch.equal(found.action_spec["action"].space.high, limits)
        small = VJEPA2AC(found.config, found.observation_spec, found.action_spec)
        small.load_state_dict(model.state_dict())
        same_numbers(small, found)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod."])
def test_compiled_and_other_precisions_come_in(
    model: VJEPA2AC, action_conditioned: Checkpoint, prefix: str, kind: torch.dtype, tmp_path: Path
) -> None:
    for part in ("encoder", "predictor"):
        tensors = {name.replace("module.", prefix, 1): x.to(kind) for name, x in action_conditioned[part].items()}
        action_conditioned[part] = tensors
    imported = import_checkpoint(save(action_conditioned, tmp_path), tmp_path / "model", SETTINGS).state_dict()
    assert all(torch.equal(x.to(kind).float(), imported[name]) for name, x in model.state_dict().items())


def test_a_target_encoder_alone_will_do(model: VJEPA2AC, action_conditioned: Checkpoint, tmp_path: Path) -> None:
    action_conditioned["target_encoder"] = action_conditioned.pop("encoder")
    imported = import_checkpoint(save(action_conditioned, tmp_path), tmp_path / "model", SETTINGS)
    assert all(torch.equal(x, imported.state_dict()[name]) for name, x in model.state_dict().items())


def test_a_checkpoint_of_pre_training_becomes_its_target_encoder(pre_trained: Checkpoint, tmp_path: Path) -> None:
    golden = load_file(GOLDEN)
    imported = import_checkpoint(save(pre_trained, tmp_path), tmp_path / "encoder", MASKED)
    loaded = VJEPA2Encoder.from_pretrained(tmp_path / "encoder", masked_predictor=True)
    video = golden["in/video_BCTHW"].transpose(1, 2)
    places, targets = golden["in/ctx_ids"], golden["in/tgt_ids"]
    for found in (imported, loaded):
        assert isinstance(found, VJEPA2Encoder)
        with torch.no_grad():
            tokens = found.eval().video_tokens(video)
            context = tokens.take_along_dim(places.unsqueeze(-1), 1)
            predicted = found.predict_masked(context, places, targets)
        torch.testing.assert_close(tokens, golden["out/encoder"], rtol=0.0, atol=1e-5)
        torch.testing.assert_close(predicted, golden["out/predictor_ctx_from_full"], rtol=0.0, atol=1e-5)


def test_the_command_line_imports_both(
    action_conditioned: Checkpoint, pre_trained: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--image-size", "32", "--encoder-heads", "2", "--predictor-heads", "2"]
    main(["import", "vjepa2", str(save(action_conditioned, tmp_path)), str(tmp_path / "model"), *sizes])
    said = capsys.readouterr().out
    assert "AutoWorldModel.from_pretrained" in said
    assert isinstance(AutoWorldModel.from_pretrained(tmp_path / "model"), VJEPA2AC)
    main(["import", "vjepa2", str(save(pre_trained, tmp_path)), str(tmp_path / "encoder"), *sizes])
    assert "VJEPA2Encoder.from_pretrained" in capsys.readouterr().out


# ------------------------------------------------------------------ what does not come in


class Foreign:
    """An object that is no tensor."""


def without(part: str, name: str) -> Callable[[Checkpoint], None]:
    return lambda checkpoint: checkpoint[part].pop(name)


def with_entry(part: str, name: str, value: object) -> Callable[[Checkpoint], None]:
    return lambda checkpoint: checkpoint[part].__setitem__(name, value)


SPOILT: list[tuple[Callable[[Checkpoint], object], str]] = [
    (lambda c: c.pop("predictor"), "needs 'predictor'"),
    (lambda c: (c.pop("encoder"), c.pop("target_encoder")), "'encoder' or 'target_encoder'"),
    (without("encoder", "module.backbone.norm.bias"), "'encoder' lacks 'norm.bias' of shape (32,)"),
    (without("encoder", "module.backbone.blocks.0.attn.qkv.bias"), "lacks 'blocks.0.attn.qkv.bias' of shape (96,)"),
    (without("encoder", "module.backbone.patch_embed.proj.weight"), "lacks 'patch_embed.proj.weight', which tells"),
    (without("predictor", "module.extrinsics_encoder.weight"), "'predictor' lacks 'extrinsics_encoder.weight'"),
    (with_entry("encoder", "cls_token", torch.zeros(1, 1, 32)), "has the extra tensor 'cls_token' of shape (1, 1, 32)"),
    (with_entry("predictor", "module.predictor_norm.bias", torch.zeros(3)), "'predictor_norm.bias' of shape (3,)"),
    (with_entry("predictor", "module.action_encoder.weight", torch.zeros(32, 4)), "actions have 4 numbers"),
    (with_entry("predictor", "norm", 3.0), "'norm' of the checkpoint's 'predictor' is no real tensor"),
    (with_entry("predictor", "module.backbone.predictor_norm.bias", torch.zeros(32)), "under several prefixes"),
    (with_entry("predictor", "module.predictor_norm.bias", torch.zeros(1).expand(10**9)), "lacks numbers of its own"),
    (with_entry("predictor", "module.predictor_norm.bias", torch.full((32,), torch.inf)), "that are not finite"),
    (lambda c: c.update(note=Foreign()), "Foreign', which was not loaded"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "match"), SPOILT, ids=[match for _, match in SPOILT])
def test_a_spoilt_checkpoint_is_refused_and_leaves_nothing(
    spoil: Callable[[Checkpoint], object], match: str, action_conditioned: Checkpoint, tmp_path: Path
) -> None:
    spoil(action_conditioned)
    path = save(action_conditioned, tmp_path)
    with pytest.raises(ValueError, match=re.escape(match)):
        import_checkpoint(path, tmp_path / "model", SETTINGS)
    assert list(tmp_path.iterdir()) == [path]


def test_heads_that_tensors_do_not_tell_are_asked_for(action_conditioned: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give encoder_heads"):
        import_checkpoint(save(action_conditioned, tmp_path), tmp_path / "model", ImportSettings(image_size=32))


def test_what_is_no_checkpoint_is_refused(pre_trained: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        import_checkpoint(tmp_path / "none.pt", tmp_path / "model")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"not a checkpoint written by torch\.save"):
        import_checkpoint(tmp_path / "text.pt", tmp_path / "model")
    with pytest.raises(ValueError, match="holds list"):
        import_checkpoint(save([1], tmp_path), tmp_path / "model")
    pre_trained["predictor"].pop("module.backbone.mask_tokens.0")
    with pytest.raises(ValueError, match=r"lacks 'mask_tokens\.0'|extra tensor 'mask_tokens\.2'"):
        import_checkpoint(save(pre_trained, tmp_path), tmp_path / "model", MASKED)
