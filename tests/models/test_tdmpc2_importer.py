"""Official checkpoints come in whole, in both namings, or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded

from worldloom_rl import AutoWorldModel, ReplayNoise, cli
from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config
from worldloom_rl.models.tdmpc2.importer import ImportSettings, import_checkpoint, model_from_state_dict
from worldloom_rl.models.tdmpc2.official.names import first_release_name, official_name
from worldloom_rl.tasks import LISTS, published_tasks

DATA = Path(__file__).parents[1] / "reference" / "data"
ROOT = Path(os.environ.get("WORLDLOOM_REFERENCE_DIR", DATA)) / "tdmpc2"
CHECKPOINTS = sorted(ROOT.glob("*.pt"))

StateDict = dict[str, Any]


def golden_of(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.stem.removesuffix("_legacy") + ".safetensors")


def cfg_of(checkpoint: Path) -> dict[str, Any]:
    with safe_open(golden_of(checkpoint), framework="pt") as content:
        return json.loads(content.metadata()["cfg"])


def kind_of(checkpoint: Path) -> str:
    """multi, pixels, episodic or single, and the naming."""
    cfg = cfg_of(checkpoint)
    kinds = {"multi": cfg["multitask"], "pixels": cfg["obs"] == "rgb", "episodic": cfg["episodic"], "single": True}
    return next(kind for kind, holds in kinds.items() if holds) + checkpoint.stem.endswith("_legacy") * "_legacy"


KINDS = {kind_of(path): path for path in CHECKPOINTS}
# Those that are spoilt tensor by tensor: one of each naming for each network that not every model has.
SPOILT = [path for kind, path in KINDS.items() if not kind.startswith("single")]


def some(kind: str) -> Path:
    if kind not in KINDS:
        pytest.skip(f"{ROOT} holds no checkpoint of the kind {kind}.")
    return KINDS[kind]


def settings_for(checkpoint: Path) -> ImportSettings:
    """What the user must know of the checkpoint: γ is left out, none of the tests needs it."""
    cfg = cfg_of(checkpoint)
    names = ("vmin", "vmax", "simnorm_dim", "log_std_min", "log_std_max", "num_samples", "num_elites")
    dims = tuple(cfg.get("action_dims", ())) if checkpoint.stem.endswith("_legacy") else ()
    return ImportSettings(
        action_dims=dims, num_policy_trajectories=cfg["num_pi_trajs"], **{name: cfg[name] for name in names}
    )


def state_dict_of(checkpoint: Path) -> StateDict:
    return torch.load(checkpoint, weights_only=True)["model"]


def save(state_dict: object, directory: Path) -> Path:
    path = directory / "checkpoint.pt"
    torch.save({"model": state_dict}, path)
    return path


def refuse(checkpoint: Path, output: Path, match: str, settings: ImportSettings | None = None) -> None:
    """The import must fail with a message that holds `match`, and leave nothing behind."""
    before = set(output.parent.iterdir())
    with pytest.raises(ValueError, match=re.escape(match)) as refused:
        import_checkpoint(checkpoint, output, settings)
    assert len(str(refused.value).replace(str(checkpoint), "")) <= 300
    assert set(output.parent.iterdir()) == before


def test_checkpoints_in_both_namings_are_found() -> None:
    assert any(path.stem.endswith("_legacy") for path in CHECKPOINTS)
    assert any(not path.stem.endswith("_legacy") for path in CHECKPOINTS)


# ------------------------------------------------------------------ what comes in


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda path: path.stem)
def test_imported_model_gives_the_official_numbers(checkpoint: Path, tmp_path: Path) -> None:
    model = import_checkpoint(checkpoint, tmp_path / "model", settings_for(checkpoint))
    golden = load_file(golden_of(checkpoint))

    def latent(section: str) -> dict[str, Tensor]:
        inputs = {"deterministic": golden[f"fn/{section}/z"], "task": golden.get(f"fn/{section}/task")}
        return {name: value for name, value in inputs.items() if value is not None}

    with torch.no_grad():
        observation = {key: golden["fn/encode/obs"] for key in model.observation_keys}
        if model.task_key is not None:
            observation[model.task_key] = golden["fn/encode/task"]
        shift = [golden[name].flatten(0, 2) for name in ["fn/encode/rng_shift"] if name in golden]
        encoded = model.encode_latent(observation, ReplayNoise({"shift": shift}))
        step = model.predict_latent(latent("next"), golden["fn/next/a"], ReplayNoise({}))
        rewarded = model.predict_latent(latent("reward"), golden["fn/reward/a"], ReplayNoise({}))
        noise = ReplayNoise({"policy": [golden["fn/pi/rng_eps"]]})
        prior = model.behavior.sample(model.latent_features(latent("pi")), model.action_mask(latent("pi")), noise)
        q_latent = latent("Q_inputs")
        steps = torch.cat([model.latent_features(q_latent), golden["fn/Q_inputs/a"]], -1)
        q, target_q = model.behavior.q(steps), model.behavior.q(steps, target=True)
    for actual, name in (
        (encoded["deterministic"], "encode/z"),
        (step.latent["deterministic"], "next/out"),
        (prior.action, "pi/action"),
        (q, "Q_online_all/out"),
        (target_q, "Q_target_all/out"),
    ):
        torch.testing.assert_close(actual, golden[f"fn/{name}"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rewarded.reward, golden["fn/reward/value"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda path: path.stem)
def test_written_directory_holds_the_same_model(checkpoint: Path, tmp_path: Path) -> None:
    model = import_checkpoint(checkpoint, tmp_path / "model", settings_for(checkpoint))
    for read in (TDMPC2.from_pretrained(tmp_path / "model"), AutoWorldModel.from_pretrained(tmp_path / "model")):
        assert read.config == model.config
        assert read.observation_spec == model.observation_spec
        assert read.action_spec == model.action_spec
        weights = read.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda path: path.stem)
def test_both_namings_give_the_same_model(checkpoint: Path) -> None:
    twin = checkpoint.with_name(checkpoint.name.replace("_legacy", ""))
    model = model_from_state_dict(state_dict_of(checkpoint), settings_for(checkpoint))
    other = model_from_state_dict(state_dict_of(twin), settings_for(twin))
    assert model.config == other.config
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_state_dict_may_stand_without_its_wrapper(tmp_path: Path) -> None:
    checkpoint = some("single")
    bare = tmp_path / "bare.pt"
    torch.save(state_dict_of(checkpoint), bare)
    imported = import_checkpoint(bare, tmp_path / "model", settings_for(checkpoint))
    expected = model_from_state_dict(state_dict_of(checkpoint), settings_for(checkpoint))
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in imported.state_dict().items())


def renamed(change: Callable[[str], str]) -> Callable[[StateDict], object]:
    return lambda state_dict: {change(name): value for name, value in state_dict.items()}


def cast(dtype: torch.dtype) -> Callable[[StateDict], object]:
    return lambda state_dict: {
        name: value.to(dtype) if isinstance(value, Tensor) else value for name, value in state_dict.items()
    }


WRAPPED: dict[str, Callable[[StateDict], object]] = {
    "compiled": renamed(lambda name: f"_orig_mod.{name}"),
    "distributed": renamed(lambda name: f"module.{name}"),
    "both": renamed(lambda name: f"_orig_mod.module.{name}"),
    "parts of it compiled": renamed(lambda name: re.sub(r"^(_dynamics|_pi)\.", r"\1._orig_mod.", name)),
    "a layer of it sharded": renamed(lambda name: name.replace("_pi.0.", "_pi.0._fsdp_wrapped_module.")),
    "inside an agent": renamed(lambda name: f"agent.model.{name}"),
    "inside a compiled agent": renamed(lambda name: f"_orig_mod.agent.module.{name}"),
    "a trainer's": lambda state_dict: {"state_dict": state_dict, "epoch": 3, "hparams": {"lr": 1e-3}},
    "beside an optimiser's": lambda state_dict: {
        "model": state_dict, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(1.0)}}},
        "step": torch.tensor(7),
    },
    "deep inside": lambda state_dict: {"agent": {"networks": {"model": state_dict, "other": {"w": torch.zeros(2)}}}},
    "twice the same": lambda state_dict: {"model": state_dict, "last": state_dict},
    "half": cast(torch.float16), "bfloat": cast(torch.bfloat16), "double": cast(torch.float64),
}  # fmt: skip


@pytest.mark.parametrize("archive", [True, False], ids=["since torch 1.6", "before"])
@pytest.mark.parametrize("how", WRAPPED)
def test_a_checkpoint_of_other_people_is_the_same_model(how: str, archive: bool, tmp_path: Path) -> None:
    checkpoint = some("single")
    torch.save(WRAPPED[how](state_dict_of(checkpoint)), tmp_path / "x.pt", _use_new_zipfile_serialization=archive)
    found = import_checkpoint(tmp_path / "x.pt", tmp_path / "model", settings_for(checkpoint)).state_dict()
    expected = model_from_state_dict(state_dict_of(checkpoint), settings_for(checkpoint)).state_dict()
    kind = {"half": torch.float16, "bfloat": torch.bfloat16}.get(how, torch.float32)
    assert all(torch.equal(found[name], value.to(kind).float()) for name, value in expected.items())


def test_a_first_release_file_is_read_whatever_wrapped_it(tmp_path: Path) -> None:
    checkpoint = some("single_legacy")
    torch.save(WRAPPED["inside a compiled agent"](state_dict_of(checkpoint)), tmp_path / "x.pt")
    found = import_checkpoint(tmp_path / "x.pt", tmp_path / "model", settings_for(checkpoint)).state_dict()
    expected = model_from_state_dict(state_dict_of(checkpoint), settings_for(checkpoint)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_settings_name_the_keys_and_reach_the_configuration() -> None:
    checkpoint = some("single")
    settings = ImportSettings(observation_key="proprio", action_key="torque", discount=0.975, rho=0.7)
    model = model_from_state_dict(state_dict_of(checkpoint), settings)
    assert model.observation_keys == ("proprio",)
    assert model.action_keys == ("torque",)
    assert (model.config.discount, model.config.rho) == (0.975, 0.7)


OF_TASKS = {"encoder_layers": 3, "action_dims": (5, 1), "task_dim": 7, "task_names": ("0", "1")}
SMALL = TDMPC2Config(encoder_dim=24, mlp_dim=40, latent_dim=16, num_bins=11, num_q=2)


@pytest.mark.parametrize(
    ("config", "width", "action"),
    [
        (SMALL, 1, 1),
        (SMALL, 16, 21),
        (dataclasses.replace(SMALL, encoder_layers=5, num_q=8), 3, 2),
        (dataclasses.replace(SMALL, encoder_dim=16, mlp_dim=16, num_bins=16, episodic=True), 16, 8),
        (dataclasses.replace(SMALL, **OF_TASKS), 9, 6),
        (dataclasses.replace(SMALL, num_channels=1), torch.Size([3, 64, 64]), 4),
    ],
)
@pytest.mark.parametrize("log_std_max", [2.0, 1.5])
def test_sizes_are_read_from_the_tensors(
    config: TDMPC2Config, width: int | torch.Size, action: int, log_std_max: float
) -> None:
    config = dataclasses.replace(config, log_std_max=log_std_max)
    leaf = Unbounded((width,)) if isinstance(width, int) else Bounded(0, 255, shape=width, dtype=torch.uint8)
    spec = Composite({"observation" if isinstance(width, int) else "pixels": leaf})
    if config.num_tasks:
        spec["task"] = Categorical(config.num_tasks, shape=(), dtype=torch.int64)
    model = TDMPC2(config, spec, Composite(action=Bounded(-1.0, 1.0, shape=(action,), dtype=torch.float32)))
    state_dict = {official_name(name): value for name, value in model.state_dict().items()}
    online = {name: value for name, value in state_dict.items() if name.startswith("_Qs.params.")}
    state_dict |= {name.replace("_Qs.params", "_detach_Qs_params"): value for name, value in online.items()}
    low, high = torch.tensor(config.log_std_min), torch.tensor(config.log_std_max)
    state_dict |= {"log_std_min": low, "log_std_dif": high - low}
    if config.num_tasks:
        state_dict["_action_masks"] = model.action_masks
    imported = model_from_state_dict(state_dict)
    unused = {} if isinstance(width, int) else {"encoder_dim": config.encoder_dim}
    assert dataclasses.replace(imported.config, **unused) == config
    assert (imported.observation_spec, imported.action_spec) == (model.observation_spec, model.action_spec)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("checkpoint", SPOILT, ids=lambda path: path.stem)
def test_every_missing_tensor_is_named(checkpoint: Path) -> None:
    settings, state_dict = settings_for(checkpoint), state_dict_of(checkpoint)
    for name, value in state_dict.items():
        if isinstance(value, Tensor):
            with pytest.raises(ValueError, match=re.escape(repr(name))):
                model_from_state_dict({other: x for other, x in state_dict.items() if other != name}, settings)


@pytest.mark.parametrize("checkpoint", SPOILT, ids=lambda path: path.stem)
def test_every_misshaped_tensor_is_named(checkpoint: Path) -> None:
    settings, state_dict = settings_for(checkpoint), state_dict_of(checkpoint)
    tensors = [(name, value) for name, value in state_dict.items() if isinstance(value, Tensor)]
    for place, (name, value) in enumerate(tensors):
        # Only these tell the width of the observation and the number of channels: any size is a possible one.
        free = name in ("_encoder.state.0.weight", "_encoder.rgb.2.weight")
        axis = 0 if free else place % max(value.dim(), 1)
        wrong = torch.cat([value, value.narrow(axis, 0, 1)], axis) if value.dim() else value.unsqueeze(0)
        with pytest.raises(ValueError, match=re.escape(repr(name))):
            model_from_state_dict({**state_dict, name: wrong}, settings)


def missing(state_dict: StateDict) -> str:
    del state_dict["_target_Qs_params.1.ln.bias"]
    return "_target_Qs_params.1.ln.bias"


def extra(state_dict: StateDict) -> str:
    state_dict["_reward.3.weight"] = torch.zeros(2)
    return "_reward.3.weight"


def misshaped(state_dict: StateDict) -> str:
    state_dict["_dynamics.1.bias"] = torch.zeros(3)
    return "_dynamics.1.bias"


def of_another_type(state_dict: StateDict) -> str:
    state_dict["_pi.0.bias"] = state_dict["_pi.0.bias"].double()
    return "_pi.0.bias"


def without_numbers(state_dict: StateDict) -> str:
    state_dict["_pi.0.bias"] = torch.zeros(1).expand(2**40)
    return "_pi.0.bias"


def of_many_views(state_dict: StateDict) -> str:
    shared = torch.zeros(max(value.numel() for value in state_dict.values() if isinstance(value, Tensor)))
    for name, value in state_dict.items():
        if isinstance(value, Tensor):
            state_dict[name] = shared[: value.numel()].view(value.shape)
    return "of their own"


def without_end(state_dict: StateDict) -> str:
    state_dict[f"_encoder.state.{10**12}.weight"] = torch.zeros(1)
    return f"_encoder.state.{10**12}.weight"


def under_two_prefixes(state_dict: StateDict) -> str:
    state_dict["module._pi.0.bias"] = state_dict["_pi.0.bias"] + 1
    return "under several prefixes"


def not_finite(state_dict: StateDict) -> str:
    state_dict["_pi.0.bias"][2] = torch.nan
    return "has '_pi.0.bias' with values that are not finite"


def of_a_long_name(state_dict: StateDict) -> str:
    state_dict["x" * 100_000] = torch.zeros(1)
    return "x" * 80 + "…"


def no_tensor(state_dict: StateDict) -> str:
    state_dict["_pi.0.bias"] = [1.0, 2.0]
    return "_pi.0.bias"


def wrong_note(state_dict: StateDict) -> str:
    state_dict["_Qs.params.__batch_size"] = "5"
    return "_Qs.params.__batch_size"


SPOILERS = [
    missing, extra, misshaped, of_another_type, without_numbers, no_tensor, wrong_note, of_many_views, without_end,
    under_two_prefixes, not_finite, of_a_long_name,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILERS)
def test_spoilt_file_is_refused_by_the_name_of_its_entry(spoil: Callable[[StateDict], str], tmp_path: Path) -> None:
    state_dict = state_dict_of(some("single"))
    name = spoil(state_dict)
    refuse(save(state_dict, tmp_path), tmp_path / "model", name)


class Trap:
    """Unpickling it makes the directory it was given."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


class Plain:
    """An object that does nothing."""


def test_pickled_call_is_refused_by_name_and_not_made(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = save({**state_dict_of(some("single")), "hook": Trap(tmp_path / "sprung")}, tmp_path / "in")
    refuse(path, tmp_path / "model", f"{os.mkdir.__module__}.mkdir")
    assert not (tmp_path / "sprung").exists()


def test_pickled_object_is_refused_by_name(tmp_path: Path) -> None:
    path = save({**state_dict_of(some("single")), "hook": Plain()}, tmp_path)
    refuse(path, tmp_path / "model", f"{Plain.__module__}.Plain")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"model": 3}, "weights"])
def test_something_else_than_a_dict_is_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    refuse(path, tmp_path / "model", "a dict of named tensors is expected")


def test_two_models_in_one_file_are_refused_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": state_dict_of(some("single")), "average": state_dict_of(some("single"))}, path)
    refuse(path, tmp_path / "model", "holds weights in 'model' and 'average'; save those that you mean")


def test_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint")
    refuse(path, tmp_path / "model", "not a checkpoint written by torch.save")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        import_checkpoint(tmp_path / "nowhere.pt", tmp_path / "model")


def test_empty_dict_is_refused(tmp_path: Path) -> None:
    refuse(save({}, tmp_path), tmp_path / "model", "none of the tensors")


def test_first_release_file_of_several_tasks_needs_their_action_dimensions(tmp_path: Path) -> None:
    refuse(some("multi_legacy"), tmp_path / "model", "action_dims")
    refuse(some("multi_legacy"), tmp_path / "model", "tasks", ImportSettings(action_dims=(1,)))


def test_action_dimensions_that_contradict_the_masks_are_refused(tmp_path: Path) -> None:
    refuse(some("multi"), tmp_path / "model", "_action_masks", ImportSettings(action_dims=(99,)))


# ------------------------------------------------------------------ the names of tasks


def of_tasks(names: tuple[str, ...], observed: int, *, legacy: bool = False) -> StateDict:
    """A tiny checkpoint of published tasks in the official layout."""
    widths = published_tasks(names).action_widths
    config = dataclasses.replace(SMALL, action_dims=widths, task_dim=7, num_q=2)
    spec = Composite(observation=Unbounded((observed,)), task=Categorical(len(names), shape=(), dtype=torch.int64))
    model = TDMPC2(config, spec, Composite(action=Bounded(-1.0, 1.0, shape=(max(widths),), dtype=torch.float32)))
    current = {official_name(name): value for name, value in model.state_dict().items()}
    if legacy:
        return {first_release_name(name): value for name, value in current.items()}
    online = {name: value for name, value in current.items() if name.startswith("_Qs.params.")}
    current |= {name.replace("_Qs.params", "_detach_Qs_params"): value for name, value in online.items()}
    current |= {"log_std_min": torch.tensor(-10.0), "log_std_dif": torch.tensor(12.0)}
    return {**current, "_action_masks": model.action_masks}


@pytest.mark.parametrize(("given", "observed"), [("mt30", 24), ("mt80", 39)])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_tasks_of_a_published_list_bring_names_widths_and_discounts(
    given: str, observed: int, legacy: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(of_tasks(LISTS[given], observed, legacy=legacy), tmp_path)
    cli.main(["import", "tdmpc2", str(path), str(tmp_path / "model"), "--tasks", given])
    assert "parameters" in capsys.readouterr().out
    model = TDMPC2.from_pretrained(tmp_path / "model")
    assert model.tasks == published_tasks(LISTS[given])
    assert model.config.task_dim == 7
    discounts = dict(zip(LISTS[given], model.discounts.tolist(), strict=True))
    assert discounts["walker-walk"] == pytest.approx(0.99)
    assert discounts.get("mw-reach", 0.95) == pytest.approx(0.95)


def test_the_official_checkpoint_of_four_tasks_takes_their_names(tmp_path: Path) -> None:
    names = ("cup-catch", "walker-walk", "cartpole-swingup", "reacher-easy")
    settings = ImportSettings(tasks=names, vmin=-3, vmax=3, simnorm_dim=8, discount=(0.9, 0.95, 0.97, 0.99))
    model = import_checkpoint(DATA / "tdmpc2_offline" / "checkpoint.pt", tmp_path / "model", settings)
    assert model.tasks == published_tasks(names)
    assert model.discounts.tolist() == pytest.approx([0.9, 0.95, 0.97, 0.99])  # those that are given stay
    other = (names[1], names[0], *names[2:])
    with pytest.raises(ValueError, match="'walker-walk' takes 6 actions"):
        import_checkpoint(DATA / "tdmpc2_offline" / "checkpoint.pt", tmp_path / "x", ImportSettings(tasks=other))


def test_other_tasks_than_those_of_a_checkpoint_are_refused(tmp_path: Path) -> None:
    mt30 = save(of_tasks(LISTS["mt30"], 24), tmp_path)
    refuse(mt30, tmp_path / "model", "mt80: 80 tasks", ImportSettings(tasks=("mt80",)))
    refuse(mt30, tmp_path / "model", "walker-wall", ImportSettings(tasks=("walker-wall",)))
    refuse(some("single"), tmp_path / "model", "one task", ImportSettings(tasks=("mt30",)))
    wide = save(of_tasks(LISTS["mt30"], 39), tmp_path)
    refuse(wide, tmp_path / "model", "observes 24 numbers", ImportSettings(tasks=("mt30",)))


def test_tasks_without_a_public_list_have_numbers_for_names(tmp_path: Path) -> None:
    model = import_checkpoint(save(of_tasks(LISTS["mt80"][10:], 39), tmp_path), tmp_path / "model")
    assert model.config.task_names == tuple(map(str, range(70)))
    assert model.tasks is None  # their lengths are not known
    assert TDMPC2.from_pretrained(tmp_path / "model").config == model.config
