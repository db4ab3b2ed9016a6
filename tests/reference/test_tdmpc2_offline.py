"""Offline TD-MPC2 of several tasks against numbers of the official code: updates, and returns of padded environments.

The files are described in shared/reference/tdmpc2/offline/README.md. All sizes come from them; those in
$WORLDLOOM_REFERENCE_DIR, or in its tdmpc2/offline, take the place of tests/reference/data/tdmpc2_offline.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from test_tdmpc2 import CALL, ROUNDED, VALUE, Batch, Golden, Section, close, compare_weights
from torchrl.envs import EnvBase

from worldloom_rl import WorldModelLoss
from worldloom_rl.envs.real import simulators
from worldloom_rl.envs.tasks import describe_tasks, make_task_env
from worldloom_rl.models.tdmpc2 import TDMPC2, PolicyLoss
from worldloom_rl.models.tdmpc2.importer import read_checkpoint
from worldloom_rl.models.tdmpc2.official.names import official_name
from worldloom_rl.recipes.tdmpc2 import make_optimizers, update

FILE = "golden_offline.safetensors"
_BASE = Path(os.environ.get("WORLDLOOM_REFERENCE_DIR", Path(__file__).parent / "data"))
_PLACES = (_BASE / "tdmpc2_offline", _BASE / "tdmpc2" / "offline", _BASE)
ROOT = next((place for place in _PLACES if (place / FILE).is_file()), _PLACES[0])


class OfflineGolden(Golden):
    """The file, with the tasks that its metadata names."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with safe_open(path, framework="pt") as content:
            metadata = content.metadata()
        self.tasks: list[str] = json.loads(metadata["tasks"])
        self.observation_widths: list[int] = json.loads(metadata["obs_dims"])
        self.action_widths: list[int] = json.loads(metadata["action_dims"])
        self.env_seed = int(metadata["env_seed"])


@pytest.fixture(scope="module")
def golden() -> OfflineGolden:
    return OfflineGolden(ROOT / FILE)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_start_weights_are_those_of_the_official_save(golden: OfflineGolden) -> None:
    saved = read_checkpoint(ROOT / "checkpoint.pt")
    for name, tensor in golden.state_dict.items():
        assert torch.equal(saved[name], tensor), name


def test_every_task_has_the_discount_of_its_episode_length(golden: OfflineGolden) -> None:
    close(golden.model().discounts, golden.tensors["discount"])
    assert golden.model().config.action_dims == tuple(golden.action_widths)


@pytest.mark.parametrize("sections", [("update0", "update1", "update2"), ("update_now",)], ids=["data", "data_now"])
def test_updates_of_several_tasks(golden: OfflineGolden, sections: tuple[str, ...]) -> None:
    """Targets, losses, gradient norms, the running scale, the embedding's gradient that is left over, and weights."""
    model = golden.model()
    world_model_loss, policy_loss = WorldModelLoss(model, model.loss_weights), PolicyLoss(model)
    optimizers = make_optimizers(model)
    for number, name in enumerate(sections):
        section = Section(golden, name)
        batch = Batch(section, section["obs"])
        compare_terms(model, batch, CALL if number == 0 else ROUNDED)
        if (before := section.get("scale_before")) is not None:
            close(policy_loss.scale.value, before, VALUE)
        noise = batch.noise()
        metrics = update(model, world_model_loss, policy_loss, optimizers, batch.rows(model), noise)
        assert not noise.unused()
        compare_metrics(metrics, model, section)
        if (after := section.get("scale_after")) is not None:
            close(policy_loss.scale.value, after, VALUE)
        if (left_over := section.get("emb_grad_left_over")) is not None:
            close(model.task_embedding.weight.grad, left_over, ROUNDED)
        compare_weights_that_are_there(model, section, updates=number + 1)
        # Where the windows stand in the data, and gradients and actions in between, which other tests compare.
        between = {f"{name}/{part}" for part in ("index", "rng_traj", "rng_start")}
        left = {full for full in section.left - between if not full.startswith((f"{name}/grad", f"{name}/out_pi_"))}
        assert not left


def compare_terms(model: TDMPC2, batch: Batch, tolerance: dict[str, float]) -> None:
    section, rows = batch.section, batch.rows(model).transpose(0, 1)
    terms = model.model_terms(
        model.read_observation(rows), section["action"], section["reward"], section["terminated"], batch.model_noise()
    )
    close(terms.td_target, section["out_td_targets"], VALUE)
    for tensor, name in (
        (terms.next_latent, "out_next_z"),
        (terms.latents, "out_zs"),
        (terms.reward_logits, "out_reward_preds"),
        (terms.q_logits, "out_qs"),
    ):
        if (expected := section.get(name)) is not None:
            close(tensor, expected, tolerance)


def compare_metrics(metrics: dict[str, torch.Tensor], model: TDMPC2, section: Section) -> None:
    for name, weight in model.loss_weights.items():
        close(metrics[f"loss_{name}"] / weight, section[f"info_{name}_loss"])
    assert section["info_termination_loss"] == 0
    close(metrics["loss"], section["info_total_loss"])
    close(metrics["grad_norm"], section["info_grad_norm"], ROUNDED)
    close(metrics["loss_policy"], section["info_pi_loss"], ROUNDED)
    close(metrics["policy_grad_norm"], section["info_pi_grad_norm"], ROUNDED)
    close(metrics["policy_entropy"], section["info_pi_entropy"], ROUNDED)
    close(metrics["policy_scaled_entropy"], section["info_pi_scaled_entropy"], ROUNDED)
    close(metrics["policy_scale"], section["info_pi_scale"].reshape(1), VALUE)


def compare_weights_that_are_there(model: TDMPC2, section: Section, updates: int) -> None:
    expected = section.below("after")
    assert expected
    weights = {official_name(name): value for name, value in model.state_dict().items()}
    if set(weights) == set(expected):
        compare_weights(model, expected, updates)
    for name, value in expected.items():
        close(weights[name], value, {"rtol": 0.0, "atol": 5e-5})


def test_evaluation_returns_are_the_official_ones_bit_for_bit(golden: OfflineGolden) -> None:
    """Padded observations, cut actions and rewards of a plan played in every task: two episodes in a row.

    TorchRL's seed spends a reset, so that our first episode is the official second.
    """
    pytest.importorskip("dm_control")
    tasks, without, _ = describe_tasks([f"dmc:{name}" for name in golden.tasks])
    assert not without
    assert tasks.observation_widths == tuple(golden.observation_widths)
    assert tasks.action_widths == tuple(golden.action_widths)
    assert set(tasks.episode_lengths) == {500}
    for number, name in enumerate(golden.tasks):
        section = Section(golden, f"eval/{name}")
        plan = golden.tensors["eval/plan"][number]
        assert (plan != 0).any(0).all()  # also where an action is cut
        env = make_task_env(tasks, [name], seed=golden.env_seed)
        first, at_100, mean, reward = (section[part] for part in ("obs_first", "obs_at_100", "obs_mean", "reward"))
        returns, score = section["episode_return"], section["episode_reward"]
        for episode in range(1, len(returns)):
            observed, rewards = play(env, plan)
            assert torch.equal(observed[0], first[episode])
            assert torch.equal(observed[100], at_100[episode])
            close(observed[:-1].mean(0), mean[episode], CALL)  # what is acted on
            assert torch.equal(rewards, reward[episode])
            assert rewards.double().sum().float() == returns[episode]
        assert not section.left
        close(score, returns.mean(), CALL)
        env.close()


def play(env: EnvBase, plan: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations [T + 1, O] and rewards [T] of an episode, without TorchRL's steps, which cost more than they add."""
    (simulator,) = simulators(env)
    observed, rewards = [torch.from_numpy(simulator.reset()[0]["observation"])], []
    for action in plan:
        observation, reward, _, truncated, _ = simulator.step(action.numpy())
        observed.append(torch.from_numpy(observation["observation"]))
        rewards.append(torch.tensor(reward, dtype=torch.float32))
    assert truncated
    return torch.stack(observed), torch.stack(rewards)
