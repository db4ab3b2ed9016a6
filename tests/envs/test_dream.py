"""Dreams as gymnasium environments: the same steps as imagination, in the form that gymnasium and its users expect."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from family_work import make_model
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, Composite, OneHot, Unbounded

from worldloom_rl import GeneratorNoise, ImaginationEnv, WorldModel
from worldloom_rl.data.episode_latents import episode_latents
from worldloom_rl.data.run_episodes import open_run
from worldloom_rl.envs import make_env
from worldloom_rl.envs.dream import DreamEnv, Dreams, DreamVectorEnv, RealResets, StoredLatents, ends_by_draw
from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config
from worldloom_rl.noise import Noise
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.world_model import Latent

RUNS = Path(__file__).parents[1] / "saved_by_0_6"
REWARDED = ("dreamerv3", "tdmpc2", "tokens")
ROWS, HORIZON = 3, 4


@pytest.fixture(scope="module", params=REWARDED)
def model(request: pytest.FixtureRequest) -> WorldModel:
    return make_model(request.param)


def latents(model: WorldModel, count: int = ROWS) -> TensorDict:
    """Those of random observations."""
    with torch.no_grad():
        return model.encode(model.observation_spec.rand(torch.Size([count]))).select(*model.latent_keys)


def begin_at(model: WorldModel, start: TensorDict, **options: Any) -> DreamVectorEnv:
    """Dreams that begin at these latents, one at each."""
    stored = StoredLatents(model, start).latents

    def starts(count: int, noise: Noise) -> Latent:
        return {name: value[:count] for name, value in stored.items()}

    return DreamVectorEnv(model, len(start), horizon=HORIZON, starts=starts, **options)


# ---------------------------------------------------------------------- the steps are those of imagination


def test_steps_are_those_of_imagine(model: WorldModel) -> None:
    start, actions = latents(model), model.action_spec.rand(torch.Size([ROWS, HORIZON]))
    with torch.no_grad():
        imagined = model.imagine(start, actions=actions, noise=GeneratorNoise(torch.Generator().manual_seed(5)))
    env = begin_at(model, start, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.dreams.noise = GeneratorNoise(torch.Generator().manual_seed(5))
    flat = model.action_space.flatten({key: actions[key] for key in model.action_keys})
    for step in range(HORIZON):
        observed, reward, _, truncated, info = env.step(played(model, flat[:, step]))
        after = imagined["next"][:, step]
        assert torch.equal(torch.as_tensor(observed), model.features(after))
        assert torch.equal(torch.as_tensor(reward), after["reward"].squeeze(-1).double())
        assert torch.equal(torch.as_tensor(info["continue"]), after["continue"].squeeze(-1).double())
        assert (truncated == (step == HORIZON - 1)).all()


def played(model: WorldModel, flat: torch.Tensor) -> np.ndarray:
    """Flat actions of one key as gymnasium has them."""
    space = model.action_space
    return (flat.argmax(-1) if space.is_discrete else space.unflatten(flat)["action"]).numpy()


def test_ends_by_mode_are_those_of_the_imagination_environment() -> None:
    model = make_model("dreamerv3")
    model.config = replace(model.config, discount_horizon=3)  # learned with the ends, and far from 1
    assert model.learned_discount == pytest.approx(2 / 3)
    with torch.no_grad():
        model.continue_head[-1].bias.fill_(0.0)  # some go on, some end
        model.continue_head[-1].weight.mul_(20.0)
    start, actions = latents(model, 256), model.action_spec.rand(torch.Size([256, HORIZON]))
    hard = ImaginationEnv(model, hard_termination=True)
    model.noise = GeneratorNoise(torch.Generator().manual_seed(5))
    state = hard.reset(start.clone())
    begins = state["continue"].squeeze(-1) == 1  # a dream goes on from where it is told to begin
    env = begin_at(model, start, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.dreams.noise = GeneratorNoise(torch.Generator().manual_seed(5))
    alive = torch.ones(256, dtype=torch.bool)
    for step in range(HORIZON):
        state = hard.step(state.update(actions[:, step]))["next"]
        _, _, terminated, _, _ = env.step(actions["action"][:, step].numpy())
        if step == 0:
            assert 0 < terminated[begins].sum() < begins.sum()
        alive &= ~torch.as_tensor(terminated)
        assert torch.equal(~alive[begins], state["terminated"].squeeze(-1)[begins])


def test_drawn_ends_come_as_often_as_foreseen() -> None:
    noise = GeneratorNoise(torch.Generator().manual_seed(0))
    ended = ends_by_draw(torch.full((20_000, 1), 0.9), noise)
    assert ended.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert not ends_by_draw(torch.ones(100, 1), noise).any()


def test_a_discount_that_a_model_learned_with_its_ends_ends_no_dream() -> None:
    model = make_model("dreamerv3")
    discount = model.config.discount
    assert model.learned_discount == discount < 1
    with torch.no_grad():
        model.continue_head[-1].weight.zero_()
        model.continue_head[-1].bias.fill_(math.log(discount / (1 - discount)))  # no end is foreseen
    dreams = begin_at(model, latents(model, 4096), ending="sample", autoreset_mode=AutoresetMode.DISABLED)
    dreams.reset(seed=0)
    flat = model.action_space.flatten(model.action_spec.rand(torch.Size([4096])))
    assert dreams.step(played(model, flat))[2].sum() <= 2  # rounding may end one; the discount would some forty


# ---------------------------------------------------------------------- what gymnasium asks for


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "observations", "starts"),
    [
        ("dreamerv3", "features", "reset"),
        ("dreamerv3", "decoded", "replay"),
        ("tdmpc2", "features", "replay"),
        ("tokens", "decoded", "reset"),
        ("tokens", "features", "replay"),
    ],
)
def test_the_dream_of_a_run_is_a_gymnasium_environment(family: str, observations: str, starts: str) -> None:
    options = {"model": RUNS / f"run-{family}", "horizon": HORIZON, "observations": observations, "starts": starts}
    threads = torch.get_num_threads()
    env = gymnasium.make("worldloom/Dream-v0", **options)
    assert torch.get_num_threads() == threads
    check_env(env.unwrapped, skip_render_check=True)
    vector = gymnasium.make_vec("worldloom/Dream-v0", num_envs=ROWS, **options)
    assert isinstance(vector, DreamVectorEnv)
    observed, _ = vector.reset(seed=1)
    assert vector.observation_space.contains(observed)
    for _ in range(HORIZON + 2):
        observed, reward, terminated, truncated, _ = vector.step(vector.action_space.sample())
        assert vector.observation_space.contains(observed)
        assert reward.shape == terminated.shape == truncated.shape == (ROWS,)
        assert reward.dtype == np.float64
        assert terminated.dtype == truncated.dtype == np.bool_
    for opened in (env, vector):
        opened.close()


def test_decoded_observations_are_in_the_space_of_the_real_environment() -> None:
    real = gymnasium.make("CartPole-v1")
    env = gymnasium.make("worldloom/Dream-v0", model=RUNS / "run-dreamerv3", horizon=3, observations="decoded")
    assert env.observation_space.shape == real.observation_space.shape
    assert env.observation_space.dtype == real.observation_space.dtype
    assert env.action_space == real.action_space
    pixels = gymnasium.make("worldloom/Dream-v0", model=RUNS / "run-tokens", horizon=3, observations="decoded")
    assert pixels.observation_space == gymnasium.spaces.Box(0, 255, (3, 64, 64), np.uint8)


def test_a_seeded_reset_repeats_everything_and_others_differ(model: WorldModel) -> None:
    env = DreamVectorEnv(model, ROWS, horizon=2, starts=StoredLatents(model, latents(model, 50)))
    action = played(model, model.action_space.flatten(dict(model.action_spec.rand(torch.Size([ROWS])).items())))

    def told(seed: int | list[int] | None) -> list[Any]:
        numbers = [env.reset(seed=seed)[0]]
        for _ in range(4):
            observed, reward, *_ = env.step(action)
            numbers += [observed, reward]
        return numbers

    for seed in (3, [1, 2, 3]):
        assert all(map(np.array_equal, told(seed), told(seed)))
    assert not np.array_equal(told(3)[0], told(4)[0])
    assert not np.array_equal(told(3)[0], told(None)[0])


# ---------------------------------------------------------------------- beginning anew


def counted(mode: AutoresetMode) -> tuple[DreamVectorEnv, np.ndarray, np.ndarray]:
    """Dreams of two steps, their first observation, and an action."""
    model = make_model("tdmpc2")
    env = begin_at(model, latents(model), autoreset_mode=mode)
    env.dreams.horizon = 2
    first, _ = env.reset(seed=0)
    return env, first, np.zeros((ROWS, 6), np.float32)


def test_a_dream_begins_anew_at_the_next_step() -> None:
    env, first, action = counted(AutoresetMode.NEXT_STEP)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert not env.step(action)[3].any()
    last, _, _, truncated, _ = env.step(action)
    assert truncated.all()
    assert not np.array_equal(last, first)
    observed, reward, terminated, truncated, info = env.step(action)
    assert np.array_equal(observed, first)
    assert not np.stack([reward, terminated, truncated]).any()
    assert (info["continue"] == 1).all()
    assert env.step(action)[1].all()


def test_a_dream_begins_anew_at_the_same_step_and_tells_the_last_observation() -> None:
    env, first, action = counted(AutoresetMode.SAME_STEP)
    env.step(action)
    observed, reward, _, truncated, info = env.step(action)
    assert truncated.all()
    assert reward.all()
    assert np.array_equal(observed, first)
    assert info["_final_obs"].all()
    assert not np.array_equal(np.stack(info["final_obs"]), first)
    assert info["final_info"]["continue"].shape == (ROWS,)


def test_only_masked_dreams_begin_anew_where_that_is_the_users() -> None:
    env, first, action = counted(AutoresetMode.DISABLED)
    env.step(action)
    last = env.step(action)[0]
    mask = np.array([True, False, False])
    observed, _ = env.reset(options={"reset_mask": mask})
    assert np.array_equal(observed[0], first[0])
    assert np.array_equal(observed[1:], last[1:])
    assert env.step(action)[3].tolist() == [False, True, True]


# ---------------------------------------------------------------------- where dreams begin


def test_a_dream_begins_where_the_real_environment_does() -> None:
    family, config = find_preset("dreamerv3:tiny")
    env = make_env("CartPole-v1")
    model = family.model_class(config, Composite(observation=Unbounded((4,))), Composite(action=OneHot(2))).eval()
    dream = DreamEnv(model, horizon=3, starts=RealResets(model, env))
    features, _ = dream.reset(seed=7)
    drawn = GeneratorNoise(torch.Generator().manual_seed(int(np.random.default_rng(7).integers(2**63 - 1))))
    seed = drawn.integers("reset", 2**31 - 1, (1,), torch.zeros(1)).item()
    env.set_seed(seed)
    with torch.no_grad():
        latent = model.encode_latent({"observation": env.reset()["observation"].unsqueeze(0)}, drawn)
        assert torch.equal(torch.as_tensor(features), model.latent_features(latent)[0])


def test_latents_of_a_replay_are_those_of_rows_after_which_episodes_went_on() -> None:
    from worldloom_rl import AutoWorldModel

    model = AutoWorldModel.from_pretrained(RUNS / "run-tdmpc2")
    episodes = open_run(RUNS / "run-tdmpc2")
    found = episode_latents(model, episodes, 10_000, seed=0)
    rows = episodes.rows(torch.arange(int(episodes.lengths.sum())))
    with torch.no_grad():
        every = model.encode(rows[~rows["terminated"].squeeze(-1)])["latent", "deterministic"]
    ours = found["latent", "deterministic"]
    assert torch.allclose(ours.sort(0).values, every.sort(0).values, atol=1e-6)
    assert len(episode_latents(model, episodes, 7, seed=0)) <= 7


def test_latents_of_a_replay_are_those_of_the_seed_whatever_was_drawn_before() -> None:
    from worldloom_rl import AutoWorldModel

    model, episodes = (read(RUNS / "run-dreamerv3") for read in (AutoWorldModel.from_pretrained, open_run))
    begin = torch.get_rng_state()
    first, again, other = (episode_latents(model, episodes, 64, seed=seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert len(first) != len(other) or not (first == other).all()
    assert torch.equal(torch.get_rng_state(), begin)


# ---------------------------------------------------------------------- any action space


def test_actions_of_any_space_reach_the_model_as_they_are() -> None:
    action = Composite(
        steering=Bounded(-2.0, 4.0, shape=(2,)),
        gripper=Composite(mode=Categorical(3), side=OneHot(2)),
    )
    model = TDMPC2(TDMPC2Config.from_size("tiny"), Composite(observation=Unbounded((3,))), action)
    dreams = Dreams(model, ROWS, horizon=2, starts=StoredLatents(model, latents(model)), view="features", ending="mode")
    assert dreams.actions.space["gripper"]["mode"] == gymnasium.spaces.Discrete(3)
    given = {"steering": np.array([4.0, 1.0], np.float32), "gripper": {"mode": np.int64(2), "side": np.int64(0)}}
    expected = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    assert torch.allclose(dreams.actions.flat([given]), expected.unsqueeze(0))
    batch = {
        "steering": np.tile(given["steering"], (ROWS, 1)),
        "gripper": {"mode": np.full(ROWS, 2), "side": np.zeros(ROWS, np.int64)},
    }
    assert torch.allclose(dreams.actions.flat_batch(batch, ROWS), expected.expand(ROWS, -1))


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": RUNS / "run-jepa"}, "JEPA learns without rewards"),
        ({"observations": "feature"}, "observed by its 'features' or 'decoded', got 'feature'"),
        ({"observations": "decoded"}, r"TDMPC2 decodes no \['observation'\]"),
        ({"ending": "never"}, "ends by 'mode' or 'sample', got 'never'"),
        ({"starts": "nowhere"}, "got 'nowhere'"),
        ({"horizon": 0}, "horizon must be at least 1 imagined step, got 0"),
        ({"env": "CartPole-v1"}, r"reads 'observation' of shape \(3,\), the environment shows \(4,\)"),
        ({"model": "tdmpc2:tiny"}, "needs a run of its own"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_dreamt_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gymnasium.make("worldloom/Dream-v0", **{"model": RUNS / "run-tdmpc2", "horizon": 3, **options})


def test_what_is_no_action_is_refused(model: WorldModel) -> None:
    env = DreamEnv(model, horizon=3, starts=StoredLatents(model, latents(model)))
    env.reset(seed=0)
    wrong = np.int64(99) if model.action_space.is_discrete else np.full(6, np.nan, np.float32)
    with pytest.raises(ValueError, match="'action' is"):
        env.step(wrong)
    with pytest.raises(ValueError, match="numbers, got"):
        env.step(np.zeros(5))


def test_a_run_of_somebody_else_asks_for_trust_first(tmp_path: Path) -> None:
    import json
    import shutil

    run = shutil.copytree(RUNS / "run-tdmpc2", tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["config"]["env"] = "antigravity:Mine-v0"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="may be somebody else's"):
        gymnasium.make("worldloom/Dream-v0", model=run, horizon=3)
    assert "antigravity" not in sys.modules


# ---------------------------------------------------------------------- the name


@pytest.mark.parametrize("imports", ["worldloom_rl, gymnasium", "gymnasium, worldloom_rl"])
def test_importing_the_package_makes_the_name_known_and_imports_nothing_heavy(imports: str) -> None:
    program = f"import sys, {imports}; gymnasium.spec('worldloom/Dream-v0'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("False\n", "")
