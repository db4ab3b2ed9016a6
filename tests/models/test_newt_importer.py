"""Checkpoints of newt come in whole, in every naming, or not at all.

No published file was at hand: these are written here, with the names and shapes that newt's code saves, and their
outputs computed by plain torch.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldloom_rl import AutoWorldModel, GeneratorNoise, ReplayNoise, cli
from worldloom_rl.models.tdmpc2 import TDMPC2, importer
from worldloom_rl.models.tdmpc2.newt_importer import NewtSettings, import_checkpoint, model_from_state_dict
from worldloom_rl.models.tdmpc2.official.newt_names import sizes_as_tdmpc2
from worldloom_rl.models.tdmpc2.official.sizes import Source, describe

TEXT, BINS, SIMNORM = 512, 21, 8
SIZES = {  # of newt: hidden width of the encoder, of the heads, latent, layers of the encoder, Qs
    "S": (128, 256, 384, 2, 3), "B": (256, 512, 512, 2, 5), "L": (1024, 1024, 512, 3, 5), "XL": (2048, 2048, 704, 4, 7),
}  # fmt: skip
SMALL = (24, 32, 16, 3, 3)
SETTINGS = NewtSettings(observation_width=6)

State = dict[str, Tensor]


def written(
    sizes: tuple[int, ...] = SMALL,
    observed: int = 6,
    actions: tuple[int, ...] = (4, 2, 3),
    text: int = TEXT,
    device: str = "cpu",
    bins: int = BINS,
) -> State:
    """A state dict with the layout of newt's code: of one task without text."""
    encoder, heads, latent, layers, members = sizes
    torch.manual_seed(0)
    state: State = {}

    def mlp(name: str, widths: list[int], normed: bool) -> None:
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            state[f"{name}.{index}.weight"] = torch.randn(outputs, inputs, device=device) / inputs**0.5
            state[f"{name}.{index}.bias"] = torch.randn(outputs, device=device)
            if normed or index < len(widths) - 2:
                state[f"{name}.{index}.ln.weight"] = torch.randn(outputs, device=device)
                state[f"{name}.{index}.ln.bias"] = torch.randn(outputs, device=device)

    most = max(actions)
    if text:
        state["_task_emb.weight"] = torch.randn(len(actions), text, device=device) * 0.7  # norms about 16, as CLIP's
    state["_action_masks"] = torch.stack([(torch.arange(most) < count).float() for count in actions])
    mlp("_encoder.state", [observed + text, *[encoder] * (layers - 1), latent], True)
    mlp("_dynamics", [latent + text + most, heads, heads, latent], True)
    mlp("_reward", [latent + text + most, heads, heads, bins], False)
    mlp("_pi", [latent + text, heads, heads, 2 * most], False)
    for network in ("online", "target"):
        for member in range(members):
            mlp(f"_Qs.{network}._Qs.{member}", [latent + text + most, heads, heads, bins], False)
    state |= {"log_std_min": torch.tensor(-9.0), "log_std_dif": torch.tensor(11.0)}
    return state


# ------------------------------------------------------------------ what the model should compute, in plain torch


def layers_of(state: State, name: str, x: Tensor) -> Tensor:
    count = len({key.removeprefix(f"{name}.").split(".")[0] for key in state if key.startswith(f"{name}.")})
    for index in range(count):
        layer = f"{name}.{index}"
        x = x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        if f"{layer}.ln.weight" in state:
            x = F.layer_norm(x, x.shape[-1:], state[f"{layer}.ln.weight"], state[f"{layer}.ln.bias"])
            x = x if index == count - 1 else x * F.softplus(x).tanh()
    return x


def simplices(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:-1], -1, SIMNORM).softmax(-1).reshape(x.shape)


def test_every_part_of_an_imported_model_computes_what_newts_does(tmp_path: Path) -> None:
    state = written()
    torch.save({"model": state, "optim": {}, "scale": {"value": torch.ones(1)}}, tmp_path / "newt.pt")
    model = import_checkpoint(tmp_path / "newt.pt", tmp_path / "model", SETTINGS)
    task, observation = torch.tensor([0, 1, 2, 1, 0]), torch.randn(5, 6)
    z, action, epsilon = torch.rand(5, 16), torch.rand(5, 4), torch.randn(5, 4)
    text, mask = state["_task_emb.weight"][task], state["_action_masks"][task]
    latent, step = {"deterministic": z, "task": task}, torch.cat([z, text, action], -1)
    with torch.no_grad():
        encoded = model.encode_latent({"observation": observation, "task": task}, ReplayNoise({}))
        predicted = model.predict_latent(latent, action, ReplayNoise({}))
        features = model.latent_features(latent)
        prior = model.behavior.sample(features, model.action_mask(latent), ReplayNoise({"policy": [epsilon]}))
        q = [model.behavior.q(torch.cat([features, action], -1), target=target) for target in (False, True)]
    mean, raw = layers_of(state, "_pi", torch.cat([z, text], -1)).chunk(2, -1)
    log_std = (-9.0 + 0.5 * 11.0 * (raw.tanh() + 1)) * mask
    bins = torch.linspace(-10, 10, BINS)
    reward = (layers_of(state, "_reward", step).softmax(-1) * bins).sum(-1, keepdim=True)
    for actual, expected in (
        (encoded["deterministic"], simplices(layers_of(state, "_encoder.state", torch.cat([observation, text], -1)))),
        (predicted.latent["deterministic"], simplices(layers_of(state, "_dynamics", step))),
        (prior.action, (mean * mask + epsilon * mask * log_std.exp()).tanh()),
        (prior.mode, (mean * mask).tanh()),
        (prior.log_std, log_std),
        (q[0], torch.stack([layers_of(state, f"_Qs.online._Qs.{member}", step) for member in range(3)])),
        (q[1], torch.stack([layers_of(state, f"_Qs.target._Qs.{member}", step) for member in range(3)])),
        (predicted.reward, reward.sign() * reward.abs().expm1()),
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_texts_embeddings_are_neither_rescaled_nor_learned_and_are_saved(tmp_path: Path) -> None:
    state = written()
    model = model_from_state_dict(state, SETTINGS)
    latent = {"deterministic": torch.rand(3, 16), "task": torch.arange(3)}
    model.predict_latent(latent, torch.zeros(3, 4), ReplayNoise({})).reward.sum().backward()
    assert model.task_embedding is not None
    assert model.task_embedding.weight.grad is None
    assert torch.equal(model.task_embedding.weight, state["_task_emb.weight"])
    features = torch.func.vmap(lambda z, task: model.latent_features({"deterministic": z, "task": task}))
    assert torch.equal(features(latent["deterministic"], latent["task"]), model.latent_features(latent))
    model.save_pretrained(tmp_path / "model")
    read = AutoWorldModel.from_pretrained(tmp_path / "model")
    assert isinstance(read, TDMPC2)
    assert read.config == model.config
    assert read.config.fixed_task_embedding
    assert torch.equal(read.latent_features(latent), model.latent_features(latent))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model."])
def test_weights_under_the_names_of_wrappers_are_the_same_model(prefix: str) -> None:
    state = written()
    plain, wrapped = (model_from_state_dict(each, SETTINGS).state_dict() for each in (
        state, {prefix + name: value for name, value in state.items()}
    ))  # fmt: skip
    assert all(torch.equal(value, wrapped[name]) for name, value in plain.items())


@pytest.mark.parametrize("size", SIZES)
def test_newts_sizes_are_read_from_the_tensors(size: str) -> None:
    sizes = SIZES[size]
    state = written(sizes, 128, (16, 3), device="meta", bins=101)
    state |= {"log_std_min": torch.tensor(-10.0), "log_std_dif": torch.tensor(12.0)}
    config, observed, acted = describe(Source(sizes_as_tdmpc2(state)), NewtSettings())
    assert (config.encoder_dim, config.mlp_dim, config.latent_dim, config.encoder_layers, config.num_q) == sizes
    assert (config.task_dim, config.action_dims, config.num_bins, config.dropout) == (TEXT, (16, 3), 101, 0.0)
    assert (observed["observation"].shape, acted["action"].shape) == ((128,), (16,))


def test_a_model_of_one_task_has_no_embedding() -> None:
    model = model_from_state_dict(written(actions=(4,), text=0))
    assert model.task_embedding is None
    assert model.config.num_tasks == 0
    assert model.observation_spec["observation"].shape == (6,)


def test_tasks_are_named_or_numbered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": written()}, tmp_path / "newt.pt")
    options = ["--tasks", "walker-walk", "mw-reach", "og-ant", "--observation-width", "6", "--discount", "0.98"]
    cli.main(["import", "newt", str(tmp_path / "newt.pt"), str(tmp_path / "model"), *options])
    assert "parameters" in capsys.readouterr().out
    config = TDMPC2.from_pretrained(tmp_path / "model").config
    assert (config.task_names, config.tasks) == (("walker-walk", "mw-reach", "og-ant"), None)
    assert config.discount == 0.98
    assert model_from_state_dict(written(), SETTINGS).config.task_names == ("0", "1", "2")


# ------------------------------------------------------------------ what is refused


def changed(name: str, value: object) -> Callable[[State], str]:
    def change(state: State) -> str:
        state[name] = value  # type: ignore[assignment]
        return name

    return change


def lacking(name: str) -> Callable[[State], str]:
    def change(state: State) -> str:
        del state[name]
        return name

    return change


WRONG = {
    "a member's tensor": lacking("_Qs.online._Qs.1.0.weight"),
    "a target's tensor": lacking("_Qs.target._Qs.2.2.bias"),
    "the masks": lacking("_action_masks"),
    "the encoder's norm": lacking("_encoder.state.1.ln.bias"),
    "the bounds": lacking("log_std_dif"),
    "a member's shape": changed("_Qs.target._Qs.0.1.weight", torch.zeros(32, 31)),
    "an embedding's shape": changed("_task_emb.weight", torch.zeros(3, 511)),
    "more": changed("_Qs.online._Qs.0.3.weight", torch.zeros(2, 2)),
    "a head that newt lacks": changed("_termination.0.weight", torch.zeros(2, 2)),
    "an encoder that newt lacks": changed("_encoder.rgb.2.weight", torch.zeros(32, 3, 7, 7)),
    "not finite": changed("_pi.0.bias", torch.full((32,), torch.nan)),
    "of whole numbers": changed("_pi.0.bias", torch.zeros(32, dtype=torch.int64)),
    "no tensor": changed("_pi.0.bias", "text"),
    "masks in another order": changed("_action_masks", torch.tensor([[0.0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])),
    "features of images": changed("_encoder.state.0.weight", torch.zeros(24, 6 + 384 + TEXT)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_refused_by_the_files_name_for_it(wrong: str, tmp_path: Path) -> None:
    state = written()
    name = WRONG[wrong](state)
    torch.save({"model": state}, tmp_path / "newt.pt")
    with pytest.raises(ValueError, match=re.escape(name)) as refused:
        import_checkpoint(tmp_path / "newt.pt", tmp_path / "model", SETTINGS)
    assert len(str(refused.value)) <= 300
    assert not (tmp_path / "model").exists()


def test_other_files_and_other_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"3 tasks|2 names|task_names 2"):
        model_from_state_dict(written(), NewtSettings(observation_width=6, tasks=("a", "b")))
    with pytest.raises(ValueError, match="one task"):
        model_from_state_dict(written(actions=(4,), text=0), NewtSettings(tasks=("a",)))
    state = written(actions=(4,), text=0)
    state["_action_masks"][0, 3] = 0
    with pytest.raises(ValueError, match="_action_masks"):
        model_from_state_dict(state)
    with pytest.raises(ValueError, match="import newt"):
        importer.model_from_state_dict(written())
    with pytest.raises(ValueError, match="one of TD-MPC2"):
        model_from_state_dict({"_dynamics.0.weight": torch.zeros(2, 2)})


class Foreign:
    """What a pickle would build by calling."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return operator.abs, (1,)


@pytest.mark.parametrize(
    "content",
    [{"model": Foreign()}, {"cfg": Foreign()}, {"cfg": {"_target_": Foreign()}}],
    ids=["model", "cfg", "target"],
)
def test_a_pickled_call_is_refused_by_name_and_not_made(content: dict[str, object], tmp_path: Path) -> None:
    torch.save({"model": written(), **content}, tmp_path / "newt.pt")
    with pytest.raises(ValueError, match=f"{operator.abs.__module__}.abs"):
        import_checkpoint(tmp_path / "newt.pt", tmp_path / "model", SETTINGS)
    assert not (tmp_path / "model").exists()


def test_what_a_target_names_is_not_looked_at(tmp_path: Path) -> None:
    torch.save({"model": written(), "cfg": {"_target_": "os.system", "task": "soup"}}, tmp_path / "newt.pt")
    model = import_checkpoint(tmp_path / "newt.pt", tmp_path / "model", SETTINGS)
    latent = model.initial_latent((2,))
    assert model.predict_latent(latent, torch.zeros(2, 4), GeneratorNoise()).reward.isfinite().all()
