"""Models that version 0.6.0 saved load, and say of fixed inputs what they said then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensordict import TensorDict
from torch import Tensor

from worldloom_rl import AutoWorldModel, ModeNoise, WorldModel

HERE = Path(__file__).parent
FAMILIES = sorted(folder.name.removeprefix("model-") for folder in HERE.glob("model-*"))
CLOSE = {"rtol": 1e-5, "atol": 2e-6}  # another processor adds up in another order; the same one gives the same bits


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    if request.param in ("frozen_jepa", "vjepa2"):
        pytest.importorskip("transformers")
    if request.param == "tokens":
        pytest.importorskip("vector_quantize_pytorch")
    return str(request.param)


def given(inputs: dict[str, Tensor], kind: str) -> TensorDict:
    """The tensors under `kind`, their names split into keys."""
    rows = TensorDict({}, batch_size=[2])
    for name, x in inputs.items():
        first, *key = name.split("/")
        if first == kind:
            rows.set(tuple(key), x)
    return rows


def said(model: WorldModel, inputs: dict[str, Tensor]) -> dict[str, TensorDict]:
    """Latents of two observations, one predicted step and three imagined ones, every draw the most central one."""
    model.noise = ModeNoise()
    actions = given(inputs, "action")
    with torch.no_grad():
        start = model.encode(given(inputs, "observation")).select("latent")
        predicted = model.predict(start.clone().update(actions.apply(lambda x: x[:, 0])))
        flat = model.action_space.flatten({key: actions.get(key) for key in model.action_keys})
        imagined = model.imagine(start, actions=flat, noise=ModeNoise())["next"]
    return {"encode": start, "predict": predicted, "imagine": imagined}


def test_all_six_families_are_here() -> None:
    assert FAMILIES == ["dreamerv3", "frozen_jepa", "jepa", "tdmpc2", "tokens", "vjepa2"]


def test_a_saved_model_says_what_it_said(family: str) -> None:
    folder = HERE / f"model-{family}"
    found = said(AutoWorldModel.from_pretrained(folder), load_file(folder / "inputs.safetensors"))
    expected = load_file(folder / "outputs.safetensors")
    assert {name.split("/")[0] for name in expected} == set(found)
    for name, x in expected.items():
        verb, *key = name.split("/")
        torch.testing.assert_close(
            found[verb].get(tuple(key)), x, **CLOSE, msg=lambda said, name=name: f"{name}: {said}"
        )


def test_saving_it_again_writes_the_same_names_numbers_and_weights(family: str, tmp_path: Path) -> None:
    folder = HERE / f"model-{family}"
    AutoWorldModel.from_pretrained(folder).save_pretrained(tmp_path)
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path))
    assert {name: after[name] for name in before if "version" not in name} == {
        name: x for name, x in before.items() if "version" not in name
    }
    old, new = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert set(old) == set(new)
    assert all(torch.equal(new[name], x) for name, x in old.items())
