"""Checkpoint directories: what comes back, what is refused, and that they are whole or not there."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensordict import TensorDict
from torchrl.data import Bounded, Composite, MultiOneHot, OneHot, Unbounded

from worldloom_rl import AutoWorldModel, ModeNoise, WorldModel
from worldloom_rl.models.tdmpc2 import TDMPC2
from worldloom_rl.pretrained import format as saved_format
from worldloom_rl.pretrained.format import load_world_model
from worldloom_rl.pretrained.registry import find_preset

TINY = find_preset("tdmpc2:tiny")[1]


def specs() -> tuple[Composite, Composite]:
    return (
        Composite(observation=Unbounded((5,)), inner=Composite(pose=Unbounded((2,)))),
        Composite(action=Bounded(-2.0, 2.0, shape=(3,), dtype=torch.float32)),
    )


def build(key_map: dict[str, Any] | None = None) -> TDMPC2:
    torch.manual_seed(0)
    model = TDMPC2(TINY, *specs(), key_map)
    with torch.no_grad():  # fresh Q and reward layers are zero and would hide a lost tensor
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def batch(model: WorldModel) -> TensorDict:
    torch.manual_seed(1)
    observation, action = (spec.expand(4).rand() for spec in specs())
    latent = TensorDict({}, batch_size=[4])
    model.write_latent(latent, model.encode_latent(model.read_observation(observation), ModeNoise()))
    return latent.update(action)


# ---------------------------------------------------------------------- round trip


@pytest.mark.parametrize("load", [load_world_model, AutoWorldModel.from_pretrained, TDMPC2.from_pretrained])
def test_a_loaded_model_gives_bitwise_equal_outputs(saved, load):
    model, loaded = build(), load(saved)
    expected = model.predict(batch(model))
    got = loaded.predict(batch(loaded))
    for key in (("latent", "deterministic"), "reward", "continue"):
        assert torch.equal(got[key], expected[key]), key
    features = model.features(expected)
    values = [each.behavior.value(features, None, ModeNoise()) for each in (model, loaded)]
    assert torch.equal(*values)


def test_a_loaded_model_has_the_same_tensors_specs_configuration_and_keys(tmp_path):
    model = build({"reward": ("my", "reward"), "latent": "z"})
    model.save_pretrained(str(tmp_path / "deep" / "model"))
    loaded = AutoWorldModel.from_pretrained(str(tmp_path / "deep" / "model"))
    assert type(loaded) is TDMPC2
    assert loaded.config == model.config
    assert loaded.key_map == model.key_map
    assert (loaded.observation_spec, loaded.action_spec) == specs()
    state, expected = loaded.state_dict(), model.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("action", [OneHot(3), MultiOneHot([2, 3])])
def test_a_model_with_discrete_actions_comes_back_with_its_groups(tmp_path, action):
    model = TDMPC2(TINY, Composite(observation=Unbounded((2,))), Composite(action=action))
    model.save_pretrained(tmp_path / "model")
    assert load_world_model(tmp_path / "model").action_space.groups == model.action_space.groups


def test_the_directory_holds_json_and_safetensors_and_no_class_path(saved):
    assert sorted(file.name for file in saved.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((saved / "config.json").read_text())
    assert (config["model_type"], config["format_version"]) == ("tdmpc2", 1)
    assert config["config"]["latent_dim"] == 64
    assert "worldloom_rl" not in (saved / "config.json").read_text()


def test_what_is_loaded_does_not_depend_on_the_global_seed(saved):
    torch.manual_seed(0)
    first = load_world_model(saved)
    torch.manual_seed(1)
    second = load_world_model(saved)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# ---------------------------------------------------------------------- what is refused


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


NAME = "reward_head.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop(NAME), rf"lacks the tensor '{NAME}' of shape \(64, 67\)"),
        (lambda weights: weights.update(extra=torch.zeros(2)), r"has an extra tensor 'extra' of shape \(2,\)"),
        (
            lambda weights: weights.update({NAME: torch.zeros(64, 66)}),
            rf"'{NAME}' is \(\(64, 66\), 'F32'\).*\(64, 67\)",
        ),
        (lambda weights: weights.update({NAME: torch.zeros(67, 64)}), rf"'{NAME}' is"),
        (lambda weights: weights.update({NAME: weights[NAME].double()}), rf"'{NAME}' is .*'F64'.*needs .*'F32'"),
        (lambda weights: weights.update({NAME: weights[NAME].half()}), rf"'{NAME}' is .*'F16'"),
    ],
    ids=["missing", "extra", "mis-shaped", "transposed", "double", "half"],
)
def test_a_wrong_tensor_is_refused_by_name(saved, change, message):
    edit_weights(saved, change)
    with pytest.raises(ValueError, match=message):
        load_world_model(saved)


def test_a_renamed_tensor_is_refused(saved):
    edit_weights(saved, lambda weights: weights.update({"reward_head.0.wieght": weights.pop(NAME)}))
    with pytest.raises(ValueError, match=f"lacks the tensor '{NAME}'"):
        load_world_model(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["config"].update(laten_dim=3), r"no field 'laten_dim'. Did you mean 'latent_dim'"),
        (lambda config: config["config"].pop("horizon"), r"lacks the fields \['horizon'\]"),
        (lambda config: config["config"].update(latent_dim="64"), "latent_dim must be a whole number"),
        (lambda config: config["config"].update(latent_dim=64.5), "latent_dim"),
        (lambda config: config["config"].update(latent_dim=2**40), "latent_dim must be a whole number in"),
        (lambda config: config["config"].update(discount=None), "discount must be a number"),
        (lambda config: config["config"].update(action_dims=3), "action_dims must be a tuple"),
        (lambda config: config.update(config=3), "The config must be the fields of TDMPC2Config"),
        (lambda config: config.update(surprise=1), "exactly the fields .*'surprise'"),
        (lambda config: config.pop("key_map"), "exactly the fields"),
        (lambda config: config.update(format_version=2), r"format version 2; this library reads version 1"),
        (lambda config: config.update(format_version="1"), r"format version '1'"),
        (lambda config: config.update(model_type="tdmpc3"), "family is named 'tdmpc3'. Did you mean 'tdmpc2'"),
        (lambda config: config.update(model_type=["tdmpc2"]), "model_type must be the name of a family"),
        (lambda config: config["key_map"].update(rewards=["r"]), r"got \['rewards'\]"),
        (lambda config: config["key_map"].update(reward=3), "key_map must give each name"),
        (lambda config: config.update(key_map=3), "key_map must give each name"),
        (lambda config: config["action_spec"]["leaves"][0].update(shape=[2**40]), "absurd shape"),
        (lambda config: config["action_spec"]["leaves"][0].update(kind="Unbounded"), "finite bounds"),
        (lambda config: config["observation_spec"]["leaves"][0].update(kind="Gizmo"), "unknown kind 'Gizmo'"),
        (lambda config: config["observation_spec"].update(leaves=[]), "neither a vector nor an image"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused_by_name(saved, change, message):
    edit_config(saved, change)
    with pytest.raises(ValueError, match=message):
        load_world_model(saved)


@pytest.mark.parametrize(
    "text", ["", "{", "not json", "[]", "3", "null", '{"model_type": "tdmpc2"}', "\x00", "[" * 100_000]
)
def test_a_configuration_that_is_no_json_object_of_ours_is_refused_with_its_path(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_world_model(saved)


def test_a_configuration_that_is_no_text_is_refused(saved):
    (saved / "config.json").write_bytes(b"\x80\x04\x95\xff")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        load_world_model(saved)


def test_a_configuration_of_absurd_length_is_not_read(saved):
    (saved / "config.json").write_text(" " * (2**22 + 1))
    with pytest.raises(ValueError, match="larger than 4194304 bytes"):
        load_world_model(saved)


def test_sizes_the_weights_do_not_have_are_refused_before_memory_is_taken(saved):
    # The Q ensemble alone would take 2 · 1024 · 65536² · 4 bytes: building it anywhere but on the meta device fails.
    absurd = {"mlp_dim": 2**16, "latent_dim": 2**16, "encoder_dim": 2**16, "num_q": 1024}
    edit_config(saved, lambda config: config["config"].update(absurd))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"but the model needs .*65536"):
        load_world_model(saved)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: b"\x80\x04" + content,
        lambda content: content + b"\0" * 16,
    ],
    ids=["empty", "half", "one byte short", "absurd header length", "pickle bytes", "longer"],
)
def test_damaged_weights_are_refused_with_their_path(saved, damage):
    file = saved / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"model\.safetensors is not a readable safetensors file"):
        load_world_model(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {name}"):
        load_world_model(saved)


def test_from_pretrained_of_another_family_is_a_type_error(saved):
    class Other(TDMPC2):
        pass

    with pytest.raises(TypeError, match="holds a TDMPC2, not a Other; use AutoWorldModel"):
        Other.from_pretrained(saved)


# ---------------------------------------------------------------------- whole or not there


def broken(*args: object, **options: object) -> None:
    raise OSError("disk full")


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_format, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        build().save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_directory(saved, monkeypatch):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    monkeypatch.setattr(saved_format, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        TDMPC2(TINY, *specs()).save_pretrained(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_save_replaces_the_old_directory_as_a_whole(saved):
    model = TDMPC2(TINY, *specs())
    model.save_pretrained(saved)
    assert sorted(file.name for file in saved.iterdir()) == ["config.json", "model.safetensors"]
    assert list(saved.parent.iterdir()) == [saved]
    loaded = load_world_model(saved).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "mine",
    [
        {"notes.txt": "mine"},
        {"run/metrics.csv": "1,2"},
        {"config.json": '{"recipe": "tdmpc2", "config": {}}', "metrics.csv": "1,2"},
        {"config.json": '{"model_type": "bert"}', "model.safetensors": "weights of another library"},
        {"config.json": "not json"},
        {".git/HEAD": "ref: refs/heads/main"},
    ],
    ids=lambda files: next(iter(files)),
)
def test_nothing_but_a_saved_model_is_replaced(tmp_path, mine):
    for name, text in mine.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    with pytest.raises(FileExistsError, match=r"mine holds other files, which would be lost; choose a directory"):
        TDMPC2(TINY, *specs()).save_pretrained(tmp_path / "mine")
    assert {name: (tmp_path / "mine" / name).read_text() for name in mine} == mine
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


@pytest.mark.parametrize("mine", ["figures/", "notes.txt", ".git/", "agent.pt", "../learning.pt"])
def test_a_saved_model_with_other_things_beside_it_or_of_a_run_is_not_replaced(saved, mine):
    (saved / mine).mkdir() if mine.endswith("/") else (saved / mine).write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        TDMPC2(TINY, *specs()).save_pretrained(saved)
    assert (saved / mine).exists()
    load_world_model(saved)


def test_the_current_directory_is_not_replaced(saved, monkeypatch):
    monkeypatch.chdir(saved)
    for directory in (".", saved, saved.parent / "model" / ".."):
        with pytest.raises(FileExistsError, match=r"is the current directory|holds other files"):
            TDMPC2(TINY, *specs()).save_pretrained(directory)
    load_world_model(".")


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    model = build()
    with torch.no_grad():
        model.reward_head[0].weight[3, 4] = torch.inf
    with pytest.raises(ValueError, match=rf"Nothing was written to .*'{NAME}' with values that are not finite"):
        model.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- damaged, and in other precisions


def test_a_flipped_bit_of_the_weights_is_found(saved):
    file = saved / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its numbers are not those that were saved; take an earlier"):
        load_world_model(saved)


def test_weights_without_a_checksum_load_as_those_of_0_6(saved):
    weights = load_file(saved / "model.safetensors")
    save_file(weights, saved / "model.safetensors")
    loaded = load_world_model(saved).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_saved_in_another_precision_comes_back_in_single(tmp_path, dtype):
    build().to(dtype).save_pretrained(tmp_path / "model")
    loaded = load_world_model(tmp_path / "model")
    for name, value in build().to(dtype).state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.float()), name
