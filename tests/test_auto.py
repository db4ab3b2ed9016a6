"""World models by name: presets, directories and runs; the hub is in tests/pretrained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import GymEnv

from worldloom_rl import AutoWorldModel, register_world_model
from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config
from worldloom_rl.pretrained import registry

TINY = TDMPC2Config.from_size("tiny")


def specs() -> tuple[Composite, Composite]:
    return (
        Composite(observation=Unbounded((5,)), inner=Composite(pose=Unbounded((2,)))),
        Composite(action=Bounded(-2.0, 2.0, shape=(3,), dtype=torch.float32)),
    )


def build(seed: int) -> TDMPC2:
    torch.manual_seed(seed)
    return TDMPC2(TINY, *specs())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build(0).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_preset_has_fresh_weights_and_says_so():
    with pytest.warns(UserWarning, match="'tdmpc2:tiny' is a preset: the model has fresh weights"):
        model = AutoWorldModel.from_pretrained("tdmpc2:tiny")
    assert model.config == TINY
    assert (model.observation_spec, model.action_spec) == TDMPC2.default_specs()


@pytest.mark.filterwarnings("ignore:'tdmpc2.tiny' is a preset")
def test_a_preset_is_built_for_the_given_specs_or_for_those_of_an_environment():
    observation_spec, action_spec = specs()
    model = AutoWorldModel.from_pretrained("tdmpc2:tiny", observation_spec=observation_spec, action_spec=action_spec)
    assert (model.observation_spec, model.action_spec) == specs()
    model = AutoWorldModel.from_pretrained("tdmpc2:tiny", env=GymEnv("CartPole-v1"))
    assert model.observation_keys == ("observation",)
    assert model.action_space.groups == [(0, 2)]


def test_a_mistyped_preset_is_answered_with_the_closest_one():
    with pytest.raises(ValueError, match=r"has no preset 'tinny'. Did you mean .*'tdmpc2:tiny'"):
        AutoWorldModel.from_pretrained("tdmpc2:tinny")


@pytest.mark.parametrize("name", ["tdmpc2", "no/such/directory", Path("tdmpc2:tiny")])
def test_what_is_neither_directory_nor_preset_is_not_found(name):
    with pytest.raises(FileNotFoundError, match="neither a directory nor a preset"):
        AutoWorldModel.from_pretrained(name)


def test_environment_and_specs_together_are_refused():
    with pytest.raises(ValueError, match="either env or the two specs, not both"):
        AutoWorldModel.from_pretrained("tdmpc2:tiny", env=GymEnv("CartPole-v1"), observation_spec=specs()[0])


def test_one_spec_without_the_other_is_refused():
    with pytest.raises(ValueError, match="both observation_spec and action_spec, or neither"):
        AutoWorldModel.from_pretrained("tdmpc2:tiny", action_spec=specs()[1])


def test_specs_beside_a_directory_are_refused(saved):
    with pytest.raises(ValueError, match="brings its own specs"):
        AutoWorldModel.from_pretrained(saved, action_spec=specs()[1], observation_spec=specs()[0])


def test_a_preset_comes_before_a_directory_of_its_name(saved, tmp_path, monkeypatch):
    saved.rename(tmp_path / "tdmpc2:tiny")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="is a preset"):
        assert AutoWorldModel.from_pretrained("tdmpc2:tiny").action_spec == TDMPC2.default_specs()[1]
    assert AutoWorldModel.from_pretrained("./tdmpc2:tiny").action_spec == specs()[1]


def test_a_directory_comes_before_a_hub_id(saved, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    saved.rename(tmp_path / "runs" / "model")
    monkeypatch.chdir(tmp_path)
    assert AutoWorldModel.from_pretrained("runs/model").action_spec == specs()[1]


def test_a_path_is_never_looked_for_on_the_hub():
    with pytest.raises(FileNotFoundError, match="neither a directory nor a preset 'family:preset' nor a model"):
        AutoWorldModel.from_pretrained(Path("organization/name"))


@pytest.mark.parametrize("name", ["saved", "tdmpc2:tiny"])
def test_a_revision_beside_what_is_not_on_the_hub_is_refused(saved, name):
    with pytest.raises(ValueError, match="is not on the hub and has no revision 'v1'"):
        AutoWorldModel.from_pretrained(saved if name == "saved" else name, revision="v1")


def make_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"recipe": "tdmpc2", "config": {}}))
    return folder


def test_a_run_directory_gives_the_model_of_its_newest_checkpoint(tmp_path):
    run = make_run(tmp_path / "run")
    old, new = build(0), build(1)
    old.save_pretrained(run / "checkpoints" / "step_000000500" / "model")
    new.save_pretrained(run / "checkpoints" / "step_000001000" / "model")
    (run / "checkpoints" / ".step_000001500-half").mkdir()
    loaded = AutoWorldModel.from_pretrained(run).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in new.state_dict().items())
    assert not all(torch.equal(loaded[name], value) for name, value in old.state_dict().items())


def test_a_run_directory_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a run that holds no checkpoint"):
        AutoWorldModel.from_pretrained(make_run(tmp_path / "run"))


def test_auto_world_model_is_no_object():
    with pytest.raises(TypeError, match="from_pretrained"):
        AutoWorldModel()


@pytest.mark.filterwarnings("ignore:'loomed.tiny' is a preset")
def test_a_registered_class_that_is_no_world_model_is_named(monkeypatch):
    monkeypatch.setattr(registry, "_families", {})

    @register_world_model("loomed", TDMPC2Config, {"tiny": TINY})
    class Loomed(torch.nn.Module):
        default_specs = staticmethod(specs)

        def __init__(self, *arguments: object) -> None:
            super().__init__()

    with pytest.raises(TypeError, match="registered class Loomed is no WorldModel"):
        AutoWorldModel.from_pretrained("loomed:tiny")
