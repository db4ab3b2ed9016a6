"""On CUDA: the CPU's numbers in learning, imagination and acting, and what a GPU wrote read on a CPU.

That nothing there waits for the device is in test_host_syncs.py; the official numbers on CUDA are those of
`pytest tests/reference --device cuda`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from family_work import FAMILIES, ROWS, acting_row, imagined, make_model, make_policy, make_rows, make_update
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl import AutoWorldModel, GeneratorNoise, ModeNoise, WorldModelLoss
from worldloom_rl.data import Replay
from worldloom_rl.models.tdmpc2 import PolicyLoss
from worldloom_rl.recipes import dreamerv3, tdmpc2
from worldloom_rl.training import loop
from worldloom_rl.training.compilation import compile_model
from worldloom_rl.training.cuda_graphs import CapturedPolicy
from worldloom_rl.training.recipe import Recipe
from worldloom_rl.training.run_directory import RunDirectory

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

STEP = {"rtol": 1e-4, "atol": 1e-4}  # of one pass
LATER = {"rtol": 1e-3, "atol": 1e-3}  # after an update, or where a plan was refitted
GRADIENT = 2e-3  # relative L2 of a tensor, as against the official code


class HostNoise(GeneratorNoise):
    """The CPU's draws on whatever device asks."""

    def __init__(self) -> None:
        super().__init__(torch.Generator().manual_seed(0))

    def normal(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return super().normal(name, shape, like.cpu()).to(like.device)

    def uniform(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return super().uniform(name, shape, like.cpu()).to(like.device)

    def exponential(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return super().exponential(name, shape, like.cpu()).to(like.device)

    def integers(self, name: str, high: int, shape: Sequence[int], like: Tensor) -> Tensor:
        return super().integers(name, high, shape, like.cpu()).to(like.device)

    def permutation(self, name: str, count: int, like: Tensor) -> Tensor:
        return super().permutation(name, count, like.cpu()).to(like.device)

    def keep(self, name: str, shape: Sequence[int], rate: float, like: Tensor) -> Tensor:
        return super().keep(name, shape, rate, like.cpu()).to(like.device)


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Products and convolutions in float32 rather than TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def pair(family: str) -> tuple[Any, Any]:
    """The same model on the CPU and on CUDA."""
    if family in ("frozen_jepa", "vjepa2"):
        pytest.importorskip("transformers")
    if family == "tokens":
        pytest.importorskip("vector_quantize_pytorch")
    model = make_model(family)
    return model, copy.deepcopy(model).to("cuda")


def assert_same(found: TensorDictBase, expected: TensorDictBase, tolerance: dict[str, float]) -> None:
    """The same keys, and the CPU's values, on CUDA; whole numbers and flags exactly."""
    assert set(found.keys(True, True)) == set(expected.keys(True, True))
    for key, value in expected.items(True, True):
        assert found[key].is_cuda, key
        exact = {} if value.is_floating_point() else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(found[key].cpu(), value, **(exact or tolerance), msg=lambda text: f"{key}: {text}")  # noqa: B023


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_latents_and_gradients_are_the_cpus(family: str) -> None:
    rows: TensorDict | None = None
    found: list[Any] = []
    for model in pair(family):
        rows = make_rows(model, *ROWS[family]) if rows is None else rows.to("cuda")
        losses, posterior = model.train().compute_loss(rows, HostNoise())
        torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((TensorDict(losses).detach(), posterior.detach(), gradients))
    (losses, posterior, gradients), on_cuda = found
    assert_same(on_cuda[0], losses, STEP)
    assert_same(on_cuda[1], posterior, STEP)
    assert on_cuda[2].keys() == gradients.keys()
    largest = max(gradient.norm() for gradient in gradients.values())
    for name, gradient in gradients.items():
        gap = (on_cuda[2][name].cpu() - gradient).norm()
        assert gap <= GRADIENT * gradient.norm() + 1e-6 * largest, f"{name}: {gap} of {gradient.norm()}"


@pytest.mark.parametrize("family", FAMILIES)
def test_two_updates_give_the_cpus_metrics(family: str) -> None:
    rows: TensorDict | None = None
    found: list[TensorDict] = []
    for model in pair(family):
        rows = make_rows(model, *ROWS[family]) if rows is None else rows.to("cuda")
        update, noise = make_update(model), HostNoise()
        update(rows, noise)
        found.append(TensorDict(update(rows, noise)))
    assert_same(found[1], found[0], LATER)


@pytest.mark.parametrize("family", FAMILIES)
def test_imagined_steps_are_the_cpus(family: str) -> None:
    model, on_cuda = pair(family)
    with torch.no_grad():
        start = model.encode(make_rows(model, 4)).select(*model.latent_keys)
        expected = imagined(model, start, HostNoise())
        found = imagined(on_cuda, start.to("cuda"), HostNoise())
    assert_same(found, expected, STEP)


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_acts_as_on_the_cpu(family: str, explore: bool) -> None:
    model, on_cuda = pair(family)
    row = acting_row(model, make_policy(model))
    found = []
    for actor, seen in ((model, row.copy()), (on_cuda, row.to("cuda"))):
        actor.noise = HostNoise()
        kind = ExplorationType.RANDOM if explore else ExplorationType.DETERMINISTIC
        with torch.no_grad(), set_exploration_type(kind):
            found.append(make_policy(actor)(seen))
    assert_same(found[1], found[0], LATER)


def test_bfloat16_updates_are_finite_and_near_float32() -> None:
    _, model = pair("dreamerv3")
    rows = make_rows(model, *ROWS["dreamerv3"]).to("cuda")
    found = []
    for bfloat16 in (False, True):
        own = copy.deepcopy(model)
        learning = dreamerv3.make_losses(own), dreamerv3.make_optimizer(own)
        metrics, _ = dreamerv3.update(*learning, rows, HostNoise(), bfloat16=bfloat16)
        found.append(metrics)
        assert all(bool(p.isfinite().all()) and p.dtype == torch.float32 for p in own.parameters())
    assert all(bool(value.isfinite().all()) for value in found[1].values())
    for name in ("loss_reward", "loss_continue", "loss_reconstruction_pixels", "loss_critic"):
        torch.testing.assert_close(found[1][name], found[0][name], rtol=0.05, atol=0.01, msg=name)


@pytest.mark.filterwarnings("ignore")  # torch's own while it builds
@pytest.mark.parametrize("family", ["dreamerv3", "tdmpc2"])
def test_a_compiled_model_learns_as_an_eager_one(family: str) -> None:
    _, eager = pair(family)
    compiled = copy.deepcopy(eager)
    assert "are compiled" in compile_model(compiled, "cuda")
    rows = make_rows(eager, *ROWS[family]).to("cuda")
    expected, found = (TensorDict(make_update(model)(rows, HostNoise())) for model in (eager, compiled))
    assert_same(found, expected.cpu(), LATER)


def test_a_recorded_update_of_dreamerv3_learns_as_one_that_is_not() -> None:
    _, plain = pair("dreamerv3")
    recorded = copy.deepcopy(plain)
    plain.noise, recorded.noise = ModeNoise(), ModeNoise()
    optimizers = [dreamerv3.make_optimizer(model) for model in (plain, recorded)]
    losses = [dreamerv3.make_losses(model) for model in (plain, recorded)]
    dreamerv3.capture_gradients(losses[1], optimizers[1])
    for _ in range(7):  # from the fourth on it is a graph
        rows = make_rows(plain, *ROWS["dreamerv3"]).to("cuda")
        expected, found = (
            TensorDict(dreamerv3.update(*each, rows)[0]) for each in zip(losses, optimizers, strict=True)
        )
        assert_same(found, expected.cpu(), LATER)
        # Both go on from the same weights: what a GPU adds up in changing order soon takes another class.
        recorded.load_state_dict(plain.state_dict())
        optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))


def test_a_recorded_update_of_tdmpc2_learns_as_one_that_is_not() -> None:
    _, plain = pair("tdmpc2")
    recorded = copy.deepcopy(plain)
    plain.noise, recorded.noise = ModeNoise(), ModeNoise()
    parts = WorldModelLoss(recorded, recorded.loss_weights), PolicyLoss(recorded)
    replay = tdmpc2.capture_update(recorded, *parts, tdmpc2.make_optimizers(recorded, capturable=True))
    update = make_update(plain)
    for _ in range(7):
        rows = make_rows(plain, *ROWS["tdmpc2"]).to("cuda")
        expected = TensorDict(update(rows, None))
        assert_same(TensorDict(replay(rows)), expected.cpu(), LATER)


@pytest.mark.parametrize("family", ["dreamerv3", "tdmpc2"])
def test_a_recorded_policy_acts_as_it_would_in_every_exploration_type_and_batch(family: str) -> None:
    _, model = pair(family)
    model.noise = ModeNoise()
    policy = make_policy(model)
    recorded = CapturedPolicy(policy)
    with torch.no_grad():
        for _ in range(6):
            for count in (1, 3):
                for kind in (ExplorationType.RANDOM, ExplorationType.DETERMINISTIC):
                    row = acting_row(pair(family)[0], policy, count).to("cuda")
                    with set_exploration_type(kind):
                        assert_same(recorded(row.copy()), policy(row.copy()).cpu(), STEP)
        model.noise = GeneratorNoise()
        drawing = CapturedPolicy(make_policy(model))
        with set_exploration_type(ExplorationType.RANDOM):
            actions = [drawing(row.copy())["action"] for _ in range(8)]
    assert len({tuple(action.flatten().tolist()) for action in actions}) == 8, "a graph repeats its draws"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_cuda_saved_the_cpu_loads_and_back(family: str, tmp_path: Path) -> None:
    model, on_cuda = pair(family)
    on_cuda.save_pretrained(tmp_path / "model")
    loaded = AutoWorldModel.from_pretrained(tmp_path / "model")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    again = loaded.to("cuda").eval()
    row = make_rows(model, 3).to("cuda")
    again.noise, on_cuda.noise = HostNoise(), HostNoise()
    with torch.no_grad():
        assert_same(again.encode(row.copy()), on_cuda.encode(row.copy()).cpu(), {"rtol": 0, "atol": 0})


def test_replay_on_cuda_draws_the_cpus_windows_and_takes_latents_back() -> None:
    rows = TensorDict(
        {
            "observation": torch.randn(100, 3),
            "latent": {"state": torch.zeros(100, 2)},
            "is_init": torch.arange(100).unsqueeze(-1) % 10 == 0,
            "terminated": torch.zeros(100, 1, dtype=torch.bool),
            "truncated": torch.arange(100).unsqueeze(-1) % 10 == 9,
            ("replay", "stream"): torch.zeros(100, dtype=torch.int64),
        },
        batch_size=[100],
    )
    batches = []
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        replay = Replay(capacity=100, window=4, batch_size=5, generator=generator, device=device)
        replay.extend(rows)
        batch = replay.sample()
        written = batch.select("replay", "latent")
        written["latent", "state"] = written["latent", "state"] + 1
        assert replay.write_back(written) > 0
        batches.append((batch, replay.sample()))
    for expected, found in zip(*batches, strict=True):
        assert_same(found, expected, {"rtol": 0, "atol": 0})


SMALL = {
    "dreamerv3": ("batch_size=4", "batch_length=8", "imagination_starts=2", "horizon=3"),
    "tdmpc2": (
        "num_samples=16", "num_elites=4", "num_policy_trajectories=2", "iterations=2", "batch_size=8",
        "min_seed_steps=60",
    ),
}  # fmt: skip


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("recipe", [dreamerv3.RECIPE, tdmpc2.RECIPE], ids=lambda recipe: recipe.name)
def test_a_recipe_learns_on_cuda_and_goes_on_on_a_cpu(recipe: Recipe, cuda_graphs: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"seed_steps": 60} if recipe.name == "tdmpc2" else {}
    config = recipe.config_class(
        env="Pendulum-v1", time_limit=15, steps=80, capacity=500, eval_every=50, eval_episodes=2, final_eval_episodes=2,
        device="cuda", cuda_graphs=cuda_graphs, overrides=SMALL[recipe.name], run_directory=str(tmp_path / "run"),
        **options,
    )  # fmt: skip
    state = recipe.make_state(config)
    own = next(state.model.parameters())
    acting = next(p for p in state.source.collector.policy.parameters() if p.shape == own.shape)
    assert acting.data_ptr() == own.data_ptr(), "the collector acts with weights of its own, which never learn"
    state.close()

    run = loop.train(recipe, config)
    first = json.loads((run.path / "result.json").read_text())
    assert first["updates"] > 0
    settings = (run.path / "config.json").read_text().replace('"steps": 80', '"steps": 95')
    settings = settings.replace('"device": "cuda"', '"device": "cpu"').replace(
        '"cuda_graphs": true', '"cuda_graphs": false'
    )
    (run.path / "config.json").write_text(settings)
    second = json.loads((loop.resume(recipe, RunDirectory(run.path)).path / "result.json").read_text())
    assert second["config"]["device"] == "cpu"
    assert second["agent_steps"] == 95
    assert second["updates"] > first["updates"]
