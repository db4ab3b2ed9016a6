"""Train TD-MPC2 on an environment: `train(Config(env="Pendulum-v1", action_repeat=2))`.

Read `step` for the walk of one agent step and `update` for one gradient update; the rest is set-up and reports.
Reference: nicklashansen/tdmpc2, trainer/online_trainer.py and tdmpc2.py.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs import EnvBase

from worldloom_rl.config import Json, did_you_mean
from worldloom_rl.data import Arrivals, Replay
from worldloom_rl.envs import episode_length, make_env
from worldloom_rl.functional.classification import rate_and_f1
from worldloom_rl.models.tdmpc2 import TDMPC2, PolicyLoss, TDMPC2Config, make_planner
from worldloom_rl.models.tdmpc2.config import discount_for
from worldloom_rl.noise import GeneratorNoise, Noise
from worldloom_rl.objectives import WorldModelLoss
from worldloom_rl.pretrained import specs_of
from worldloom_rl.registry import find_preset
from worldloom_rl.report.learning_curve import draw_learning_curve
from worldloom_rl.training.evaluate import Evaluation, evaluate
from worldloom_rl.training.progress import LiveLine
from worldloom_rl.training.run_directory import CURVE_FILE, RunDirectory, provenance, write_json

FAMILY = "tdmpc2"


@dataclass(frozen=True)
class Config:
    """What `worldloom train tdmpc2` can be told. Steps are agent steps, summed over environments: one action each."""

    env: str  # "Pendulum-v1", "module:Id" or "dmc:cartpole-balance"
    preset: str = "tiny"  # tiny, 1m, 5m, 19m, 48m or 317m
    overrides: tuple[str, ...] = ()  # numbers of the preset to replace, such as horizon=5 num_samples=256
    steps: int = 3000  # agent steps to collect
    action_repeat: int | None = None  # simulator steps an action is held for; by default 2 for dmc:, else 1
    num_envs: int = 1  # environments stepped side by side
    episodic: bool = False  # the environment can terminate: learn a termination head
    pixels: bool = False  # observe images, the last three frames
    time_limit: int | None = None  # simulator steps of an episode; by default the environment's own
    seed_steps: int | None = None  # random agent steps before learning; by default the preset's, at least 5 episodes
    capacity: int = 1_000_000  # most rows kept in replay
    eval_every: int = 1000  # agent steps between evaluations; one more stands at the end
    eval_episodes: int = 10  # episodes of an evaluation, planned for side by side
    final_eval_episodes: int = 20  # episodes of the last evaluation
    checkpoint_every: int = 5000  # agent steps between checkpoints; one more stands at the end
    seed: int = 0  # of weights, environments, exploration and replay
    threads: int = 1  # of torch; a second one rarely pays at these sizes
    device: str = "cpu"  # where the model learns
    run_directory: str | None = None  # by default runs/<family>-<environment>-seed<seed>-<time>

    def __post_init__(self) -> None:
        for name in ("steps", "num_envs", "capacity", "eval_every", "eval_episodes", "final_eval_episodes", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

    @property
    def repeat(self) -> int:
        """The action repeat that holds, the default filled in."""
        return self.action_repeat or (2 if self.env.startswith("dmc:") else 1)

    def make_env(self, num_envs: int, seed: int) -> EnvBase:
        """Environments as this run sees them."""
        return make_env(
            self.env,
            num_envs=num_envs,
            action_repeat=self.repeat,
            pixels=self.pixels,
            frame_stack=3 if self.pixels else 1,
            time_limit=self.time_limit,
            seed=seed,
        )

    def model_config(self, length: int) -> TDMPC2Config:
        """The preset with the overrides, and with γ for episodes of that many agent steps unless it is overridden."""
        _, preset = find_preset(f"{FAMILY}:{self.preset}")
        assert isinstance(preset, TDMPC2Config)
        learned: dict[str, Json] = {"discount": discount_for(length), "episodic": self.episodic}
        return dataclasses.replace(preset, **learned | _parse(self.overrides))


def _parse(overrides: tuple[str, ...]) -> dict[str, Json]:
    known = {field.name for field in dataclasses.fields(TDMPC2Config)}
    values: dict[str, Json] = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals or name not in known:
            raise ValueError(f"An override is written name=value, got {override!r}.{did_you_mean(name, known)}")
        try:
            values[name] = json.loads(value.lower())
        except json.JSONDecodeError as error:
            raise ValueError(f"The override {override!r} needs a number, true or false after '='.") from error
    return values


# ------------------------------------------------------------------ one gradient update


@dataclass
class Optimizers:
    """The two optimisers of TD-MPC2."""

    model: torch.optim.Adam  # everything but the policy prior
    policy: torch.optim.Adam


def make_optimizers(model: TDMPC2) -> Optimizers:
    """Adam for the world model and the Qs, with a slower encoder; Adam with a larger ε for the policy prior."""
    config = model.config
    parts = [model.dynamics, model.reward_head, model.termination_head, model.behavior.q_ensemble, model.task_embedding]
    encoder_rate = config.learning_rate * config.encoder_learning_rate_scale
    groups = [{"params": list(model.encoder.parameters()), "lr": encoder_rate}]
    groups += [{"params": list(part.parameters())} for part in parts if part is not None]
    return Optimizers(
        model=torch.optim.Adam(groups, lr=config.learning_rate, fused=True),
        policy=torch.optim.Adam(model.behavior.policy.parameters(), lr=config.learning_rate, eps=1e-5, fused=True),
    )


def update(
    model: TDMPC2,
    world_model_loss: WorldModelLoss,
    policy_loss: PolicyLoss,
    optimizers: Optimizers,
    batch: TensorDictBase,
    noise: Noise | None = None,
) -> dict[str, Tensor]:
    """One update, in the official order: model, then policy on the new Qs, then targets. Returns metrics as tensors."""
    model.train()
    losses, posterior = world_model_loss(batch, noise)
    total = losses.sum(reduce=True)
    total.backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(_parameters(optimizers.model), model.config.grad_clip_norm)
    optimizers.model.step()
    optimizers.model.zero_grad()

    policy = policy_loss(posterior.detach(), noise)
    policy["loss_policy"].backward()
    policy_grad_norm = torch.nn.utils.clip_grad_norm_(_parameters(optimizers.policy), model.config.grad_clip_norm)
    optimizers.policy.step()
    # Only the policy's gradients: the task embedding's joins the next model update, as in the official code.
    optimizers.policy.zero_grad()
    model.behavior.update_target()
    model.eval()
    metrics = {**losses.to_dict(), "loss": total, "grad_norm": grad_norm, "policy_grad_norm": policy_grad_norm}
    if model.config.episodic:
        ended = batch[model.key_map.terminated][:, -1].to(total.dtype)
        rate, f1 = rate_and_f1(1 - posterior[model.key_map.continuation][:, -1].detach(), ended)
        metrics |= {"termination_rate": rate, "termination_f1": f1}
    return {name: value.detach() for name, value in {**metrics, **policy.to_dict()}.items()}


def loss_weights(config: TDMPC2Config) -> dict[str, float]:
    """The weights of the model's loss terms."""
    weights = {"consistency": config.consistency_coef, "reward": config.reward_coef, "value": config.value_coef}
    return {**weights, "termination": config.termination_coef} if config.episodic else weights


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


# ------------------------------------------------------------------ the run


@dataclass
class State:
    """Everything a run goes on from; `save_state` writes it and `resume` reads it back."""

    config: Config
    model: TDMPC2
    world_model_loss: WorldModelLoss
    policy_loss: PolicyLoss
    optimizers: Optimizers
    replay: Replay
    arrivals: Arrivals
    collector: Collector
    batches: Iterator[TensorDictBase]
    seed_steps: int
    agent_steps: int = 0
    updates: int = 0
    updates_due: float = 0.0
    training_seconds: float = 0.0
    running_returns: Tensor = field(default_factory=lambda: torch.zeros(0))
    episode_returns: list[float] = field(default_factory=list)  # of training episodes, exploration included
    evaluations: list[Evaluation] = field(default_factory=list)
    metrics: dict[str, Tensor] = field(default_factory=dict)


def make_state(config: Config, agent_steps: int = 0) -> State:
    """A fresh state, with the environments open. Randomness is seeded here.

    Args:
        agent_steps: how many were done before, so that a resumed run doesn't act at random again.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed + agent_steps)
    env = config.make_env(config.num_envs, config.seed + agent_steps)
    length = episode_length(env)
    model_config = config.model_config(length)
    model = TDMPC2(model_config, *specs_of(env)).to(config.device).eval()
    default = max(model_config.min_seed_steps, 5 * length * config.num_envs)
    seed_steps = default if config.seed_steps is None else config.seed_steps
    collector = Collector(
        env,
        make_policy(model),
        frames_per_batch=config.num_envs,
        total_frames=-1,
        init_random_frames=max(0, seed_steps - agent_steps),
        auto_register_policy_transforms=True,
        policy_device=config.device,
        storing_device="cpu",
    )
    return State(
        config=config,
        model=model,
        world_model_loss=WorldModelLoss(model, loss_weights(model_config)),
        policy_loss=PolicyLoss(model),
        optimizers=make_optimizers(model),
        replay=Replay(
            capacity=min(config.capacity, 2 * config.steps + 1000),  # an episode has one row more than steps
            window=model_config.horizon + 1,
            batch_size=model_config.batch_size,
            by="episode",
            generator=torch.Generator().manual_seed(config.seed + agent_steps),
        ),
        arrivals=Arrivals(model.observation_keys, model.action_keys),
        collector=collector,
        batches=iter(collector),
        seed_steps=seed_steps,
        agent_steps=agent_steps,
        running_returns=torch.zeros(config.num_envs),
    )


def make_policy(model: TDMPC2, noise: Noise | None = None) -> TensorDictSequential:
    """Observation → latent → plan → action, for any collector."""
    return TensorDictSequential(model.encode, make_planner(model, noise=noise))


def step(state: State) -> str:
    """One gradient update if one is due, else one agent step in every environment. Returns the phase's name.

    The burst of updates at the end of seeding (as many as seed steps) falls out of the same rule.
    """
    if state.updates_due >= 1 and state.agent_steps >= state.seed_steps:
        batch = state.replay.sample().to(state.config.device)
        state.metrics = update(state.model, state.world_model_loss, state.policy_loss, state.optimizers, batch)
        state.updates += 1
        state.updates_due -= 1
        return "pretraining" if state.updates < state.seed_steps else "training"
    transitions = next(state.batches)
    if not state.model.config.episodic and bool(transitions["next", "terminated"].any()):
        raise ValueError(
            f"{state.config.env} ended in a terminal state, but the model learns no termination. Train with --episodic."
        )
    state.replay.extend(state.arrivals(transitions))
    state.agent_steps += transitions.numel()
    state.updates_due += transitions.numel() * state.model.config.updates_per_step
    state.running_returns += transitions["next", "reward"].reshape(-1)
    done = transitions["next", "done"].reshape(-1)
    state.episode_returns += state.running_returns[done].tolist()
    state.running_returns[done] = 0.0
    return "seeding" if state.agent_steps < state.seed_steps else "training"


def evaluate_state(state: State, episodes: int) -> Evaluation:
    """Episodes with the state's model, from a seed of their own."""
    seed = state.config.seed + 100_000 + state.agent_steps
    return _play(state.config, state.model, episodes, state.agent_steps, seed)


def _play(config: Config, model: TDMPC2, episodes: int, agent_steps: int, seed: int) -> Evaluation:
    """Episodes in environments of their own, batched in one plan call, with draws of their own."""
    policy = make_policy(model, GeneratorNoise(torch.Generator(config.device).manual_seed(seed)))
    env = config.make_env(episodes, seed).append_transform(policy[-1].make_tensordict_primer())
    evaluation = evaluate(env, policy, agent_steps, seed)
    env.close()
    return evaluation


def save_state(state: State, directory: Path) -> None:
    """Weights, optimisers, running scale, replay and counters of a run."""
    state.model.save_pretrained(directory / "model")
    learning = {
        "model_optimizer": state.optimizers.model.state_dict(),
        "policy_optimizer": state.optimizers.policy.state_dict(),
        "policy_scale": state.policy_loss.scale.state_dict(),
        "task_gradient": None if state.model.task_embedding is None else state.model.task_embedding.weight.grad,
        "counters": {name: getattr(state, name) for name in _COUNTERS},
        "episode_returns": state.episode_returns,
        "evaluations": [dataclasses.asdict(evaluation) for evaluation in state.evaluations],
    }
    torch.save(learning, directory / "learning.pt")
    state.replay.save(directory / "replay")


_COUNTERS = ("agent_steps", "updates", "updates_due", "training_seconds")


def load_state(config: Config, directory: Path) -> State:
    """The state that `save_state` wrote; episodes that were running begin anew."""
    learning = torch.load(directory / "learning.pt", weights_only=True)
    state = make_state(config, agent_steps=learning["counters"]["agent_steps"])
    saved = TDMPC2.from_pretrained(directory / "model")
    if saved.config != state.model.config:
        raise ValueError(
            f"{directory} holds a model of other numbers than the run's configuration; restore config.json."
        )
    state.model.load_state_dict(saved.state_dict())
    state.optimizers.model.load_state_dict(learning["model_optimizer"])
    state.optimizers.policy.load_state_dict(learning["policy_optimizer"])
    state.policy_loss.scale.load_state_dict(learning["policy_scale"])
    if state.model.task_embedding is not None:
        state.model.task_embedding.weight.grad = learning["task_gradient"]
    for name in _COUNTERS:
        setattr(state, name, learning["counters"][name])
    state.episode_returns = learning["episode_returns"]
    state.evaluations = [Evaluation(**values) for values in learning["evaluations"]]
    state.replay.load(directory / "replay")
    return state


def train(config: Config) -> RunDirectory:
    """Train from the start. Returns the run directory, which holds the result."""
    name = f"{FAMILY}-{config.env.replace(':', '-').replace('/', '-')}-seed{config.seed}"
    run = RunDirectory.create(config.run_directory, name, FAMILY, dataclasses.asdict(config))
    return _run(make_state(config), run)


def resume(run: RunDirectory) -> RunDirectory:
    """Go on from the newest checkpoint of a run."""
    return _run(load_state(read_config(run), run.checkpoints.latest()), run)


def read_config(run: RunDirectory) -> Config:
    """The configuration of a run of this recipe."""
    recipe, values = run.read_config()
    if recipe != FAMILY:
        raise ValueError(f"{run.path} is a run of the recipe {recipe!r}, not of {FAMILY!r}.")
    return Config(**{**values, "overrides": tuple(values["overrides"])})


def _run(state: State, run: RunDirectory) -> RunDirectory:
    config = state.config
    begin = time.monotonic() - state.training_seconds
    next_checkpoint = state.agent_steps + config.checkpoint_every
    parameters = state.model.num_parameters()
    with LiveLine(config.steps, state.agent_steps) as line:
        line.say(
            f"TD-MPC2 {config.preset} ({parameters:,} parameters) on {config.env}: {config.steps} agent steps, each "
            f"{config.repeat} environment steps; random for the first {state.seed_steps}. Run directory: {run.path}"
        )
        while state.agent_steps < config.steps or state.updates_due >= 1:
            if _evaluation_due(state):
                paused = time.monotonic()
                line.show("evaluating", state.agent_steps, _shown(state))
                _evaluate(state, run, line, config.eval_episodes)
                evaluated = time.monotonic() - paused
                begin += evaluated  # training time leaves evaluations out
                line.leave_out(evaluated)
            phase = step(state)
            if line.due():
                line.show(phase, state.agent_steps, _shown(state))
                run.log(_logged(state), state.agent_steps)
            if state.agent_steps >= next_checkpoint and state.updates_due < 1:
                state.training_seconds = time.monotonic() - begin
                _checkpoint(state, run)
                next_checkpoint += config.checkpoint_every
        state.training_seconds = time.monotonic() - begin
        line.show("evaluating", state.agent_steps, _shown(state))
        final = _evaluate(state, run, line, config.final_eval_episodes)
        _checkpoint(state, run)
        _write_result(state, run, final)
    line.say(
        f"Trained for {state.training_seconds:.0f} s. Return {final.mean_return:.1f}, mean of "
        f"{len(final.returns)} episodes. Result, logs and {CURVE_FILE} are in {run.path}\n"
        f"Evaluate it: worldloom eval {run.path}"
    )
    state.collector.shutdown()
    return run


def _checkpoint(state: State, run: RunDirectory) -> None:
    folder = run.checkpoints.save(state.agent_steps, lambda temporary: save_state(state, temporary))
    state.replay.moved(folder / "replay")


def _evaluation_due(state: State) -> bool:
    if state.agent_steps >= state.config.steps:  # the last evaluation, with more episodes, follows
        return False
    last = state.evaluations[-1].agent_steps if state.evaluations else None
    every = state.config.eval_every
    return last is None or state.agent_steps // every > last // every


def _evaluate(state: State, run: RunDirectory, line: LiveLine, episodes: int) -> Evaluation:
    evaluation = evaluate_state(state, episodes)
    state.evaluations.append(evaluation)
    run.log({"evaluation/return": evaluation.mean_return}, state.agent_steps)
    line.say(f"evaluation after {state.agent_steps} steps: return {evaluation.mean_return:.1f}, {episodes} episodes")
    steps = [done.agent_steps * state.config.repeat for done in state.evaluations]
    title = f"TD-MPC2 {state.config.preset} on {state.config.env}, seed {state.config.seed}"
    draw_learning_curve(run.path / CURVE_FILE, title, steps, [done.returns for done in state.evaluations])
    return evaluation


def _shown(state: State) -> dict[str, float]:
    shown = {"return": _recent_return(state)} if state.episode_returns else {}
    names = {"loss": "loss", "policy": "loss_policy"}
    return shown | {name: float(state.metrics[key]) for name, key in names.items() if key in state.metrics}


def _logged(state: State) -> dict[str, float]:
    losses = {f"update/{name}": float(value) for name, value in state.metrics.items()}
    returns = {"collection/return": _recent_return(state)} if state.episode_returns else {}
    return {**losses, **returns, "collection/updates": float(state.updates)}


def _recent_return(state: State) -> float:
    recent = state.episode_returns[-10:]
    return sum(recent) / len(recent)


def _write_result(state: State, run: RunDirectory, final: Evaluation) -> None:
    config = state.config
    run.write_result(
        {
            "recipe": FAMILY,
            "config": {name: value for name, value in dataclasses.asdict(config).items() if name != "run_directory"},
            "model_config": state.model.config.to_json(),
            "parameters": state.model.num_parameters(),
            "agent_steps": state.agent_steps,
            "environment_steps": state.agent_steps * config.repeat,
            "updates": state.updates,
            "training_seconds": round(state.training_seconds, 1),
            "evaluations": [dataclasses.asdict(evaluation) for evaluation in state.evaluations],
            "final_returns": final.returns,
            "final_mean_return": final.mean_return,
        }
    )


def evaluate_run(run: RunDirectory, episodes: int, seed: int) -> Evaluation:
    """Episodes played with a run's newest checkpoint, also written to evaluation-seed<seed>.json in its directory."""
    config = read_config(run)
    folder = run.checkpoints.latest()
    torch.set_num_threads(config.threads)
    torch.manual_seed(seed)
    model = TDMPC2.from_pretrained(folder / "model").to(config.device).eval()
    agent_steps = int(folder.name.rpartition("_")[2])
    evaluation = _play(config, model, episodes, agent_steps, seed)
    file = run.path / f"evaluation-seed{seed}.json"
    write_json(file, {**dataclasses.asdict(evaluation), "mean_return": evaluation.mean_return, **provenance()})
    low, high = min(evaluation.returns), max(evaluation.returns)
    Console(soft_wrap=True).print(
        f"{config.env} after {agent_steps} agent steps: mean return {evaluation.mean_return:.1f} over {episodes} "
        f"episodes (from {low:.1f} to {high:.1f}). Written to {file}",
        highlight=False,
    )
    return evaluation
