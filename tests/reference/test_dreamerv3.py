"""DreamerV3 against numbers of the official code: every tensor of every golden file is an input or is compared.

The functions and the optimiser by themselves are in test_dreamerv3_functions.py. Keys, kinds, sizes and settings all
come from the files. They were made by taking the likeliest class and the mean wherever the official code samples, but
for those named "sampled", whose classes are replayed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from dreamerv3_golden import GOLDEN, Checks, Golden, Section
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl.keys import LAMBDA_RETURN, POLICY_ACTION
from worldloom_rl.models.dreamerv3 import DreamerV3, DreamerV3Config, make_policy
from worldloom_rl.models.dreamerv3.official.names import counterparts, load_official, official_key
from worldloom_rl.models.dreamerv3.rssm import RSSM, RecurrentState
from worldloom_rl.nn.block_linear import BlockLinear
from worldloom_rl.nn.heads import ActionDistribution, TwoHotHead
from worldloom_rl.nn.rms_norm import RMSNormSilu
from worldloom_rl.noise import ModeNoise
from worldloom_rl.objectives import ImaginedActorCriticLoss
from worldloom_rl.recipes.dreamerv3 import compute_losses, make_losses, make_optimizer, update
from worldloom_rl.training.laprop import LaProp
from worldloom_rl.world_model import Latent, Observation

check = Checks()

# Single passes and losses, and losses of later updates. With three instruction sets (AVX-512, AVX2, SSE 4) single
# layers of images differed by up to 4.2e-6 and losses after updates by 3.9e-5 of themselves.
FORWARD = {"rtol": 2e-5, "atol": 1e-5}
LATER = {"rtol": 1e-4, "atol": 1e-5}
GRADIENT = 2e-3  # relative L2 of a tensor, as the README suggests


def close(actual: Tensor, expected: Tensor, tolerance: Mapping[str, float] = FORWARD) -> None:
    torch.testing.assert_close(actual.detach(), expected.to(actual.dtype), **tolerance)


def same_direction(actual: Tensor, expected: Tensor, name: str) -> None:
    """Gradients agree within 2e-3 of their length."""
    assert actual.shape == expected.shape, name
    assert (actual - expected).norm() <= GRADIENT * expected.norm(), name


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.path.stem)
def test_every_section_of_the_file_has_a_check(golden: Golden) -> None:
    assert not {name for name in check.unchecked(golden) if not name.startswith(("fn/", "opt_"))}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------ their specs and layout, and ours


SIZES = {
    "deter": "deterministic", "hidden": "hidden", "stoch": "groups", "classes": "classes", "blocks": "blocks",
    "units": "units", "depth": "depth",
}  # fmt: skip
OPTIMIZER = {
    "lr": "learning_rate", "warmup": "warmup", "agc": "agc", "eps": "eps", "beta1": "momentum", "beta2": "rms_decay",
}  # fmt: skip
LOSSES = {
    "dyn": "dynamics", "rep": "representation", "rew": "reward", "con": "continue", "policy": "actor",
    "value": "critic", "repval": "replay_value",
}  # fmt: skip
NO_ACTIONS = {"reward", "is_first", "is_last", "is_terminal", "consec", "stepid", "dyn/deter", "dyn/stoch"}


def observation_shapes(golden: Golden) -> dict[str, tuple[int, ...]]:
    return {entry[0]: tuple(entry[1]) for entry in golden.metadata["obs_space_order"]}


def observation_spec(golden: Golden) -> Composite:
    spec = Composite()
    for key, shape in observation_shapes(golden).items():
        logits = golden.tensors.get(f"param/dec/vec/{key}/logits/bias")
        if len(shape) == 3:
            height, width, channels = shape
            spec[key] = Bounded(0, 255, shape=(channels, height, width), dtype=torch.uint8)
        elif logits is not None:
            spec[key] = Categorical(logits.numel() // math.prod(shape), shape=shape, dtype=torch.int64)
        else:
            spec[key] = Unbounded(shape)
    return spec


def action_spec(golden: Golden) -> Composite:
    spec = Composite()
    data = golden.below("in/data")
    for key in sorted(set(data) - NO_ACTIONS - set(observation_shapes(golden))):
        shape = tuple(data[key].shape[2:])
        logits = golden.tensors.get(f"param/pol/head/{key}/logits/bias")
        if logits is None:
            spec[key] = Bounded(-1.0, 1.0, shape=shape, dtype=torch.float32)
        else:
            spec[key] = Categorical(logits.numel() // math.prod(shape), shape=shape, dtype=torch.int64)
    return spec


def fresh_model(golden: Golden) -> DreamerV3:
    dims, optimizer = golden.metadata["dims"], golden.metadata["opt"]
    assert set(dims) == set(SIZES)
    assert (optimizer["momentum"], optimizer["wd"], optimizer["schedule"]) == (True, 0.0, "const")
    config = DreamerV3Config(
        **{ours: dims[theirs] for theirs, ours in SIZES.items()},
        **{ours: optimizer[theirs] for theirs, ours in OPTIMIZER.items()},
        num_bins=golden.tensors["param/rew/head/logits/bias"].numel(),
        horizon=golden.metadata["H"],
        batch_size=golden.metadata["B"],
        batch_length=golden.metadata["T"],
    )
    return DreamerV3(config, observation_spec(golden), action_spec(golden))


def loaded_model(golden: Golden) -> DreamerV3:
    """With the parameters of the file, in evaluation mode; its draws are the likeliest values."""
    model = fresh_model(golden).eval()
    load_official(model, golden.below("param"))
    model.noise = ModeNoise()
    return model


def our_observation(model: DreamerV3, values: Mapping[str, Tensor]) -> Observation:
    """Images with channels first, and classes as int64."""
    observation: Observation = {}
    for key, leaf in model.observation_spec.items():
        value = values[key]
        observation[key] = value.movedim(-1, -3) if len(leaf.shape) == 3 else value.to(leaf.dtype)
    return observation


def named(section: Section, folder: str, leaf: str, key: str) -> Tensor:
    """What the file says of an action key: one tensor for the only key, or one a key."""
    options = (f"{folder}{leaf}/{key}", f"{folder}{key}/{leaf}", f"{folder}{leaf}", f"{folder}{key}")
    return section[next(name for name in options if name in section)]


def our_action(model: DreamerV3, section: Section, folder: str, leaf: str) -> dict[Any, Tensor]:
    """Actions by key."""
    spec = model.action_spec
    return {key: named(section, folder, leaf, official_key(key)).to(spec[key].dtype) for key in model.action_keys}


def flat_action(model: DreamerV3, section: Section, name: str) -> Tensor:
    """[..., A]"""
    folder, slash, leaf = name.rpartition("/")
    return model.action_space.flatten(our_action(model, section, folder + slash, leaf))


def our_latent(section: Section, folder: str = "") -> Latent:
    return {"deterministic": section[f"{folder}deter"], "stochastic": section[f"{folder}stoch"]}


def close_latent(latent: Mapping[str, Tensor], section: Section, folder: str = "") -> None:
    close(latent["deterministic"], section[f"{folder}deter"])
    close(latent["stochastic"], section[f"{folder}stoch"])


def last_of(state: RecurrentState) -> Latent:
    return {"deterministic": state.deterministic[:, -1], "stochastic": state.stochastic[:, -1]}


def close_state(state: RecurrentState, section: Section, folder: str = "") -> None:
    close_latent({"deterministic": state.deterministic, "stochastic": state.stochastic}, section, folder)
    close(state.parameters, section[f"{folder}logit"].flatten(-2))


def arrival_rows(model: DreamerV3, data: Section) -> TensorDict:
    """[B, 1 + T] rows of a replay batch: each with the action that led to it.

    What must not matter is not a number: all but the latent in the first row, the latents of the others.
    """
    flags = {name: data[f"data/{name}"].unsqueeze(-1) for name in ("is_first", "is_last", "is_terminal")}
    shapes = observation_shapes(data.golden)
    rows = TensorDict(our_observation(model, {key: data[f"data/{key}"] for key in shapes}), flags["is_first"].shape[:2])
    rows["reward"] = data["data/reward"].unsqueeze(-1)
    for action, previous in zip(model.action_keys, model.previous_action_keys, strict=True):
        taken = data[f"data/{official_key(action)}"].to(model.action_spec[action].dtype)
        rows[previous] = torch.cat([torch.zeros_like(taken[:, :1]), taken[:, :-1]], 1)
    for value in rows.values(True, True):
        if value.is_floating_point():
            value[:, 0] = torch.nan
    rows["is_init"] = flags["is_first"]
    rows["terminated"] = flags["is_terminal"]
    rows["truncated"] = flags["is_last"] & ~flags["is_terminal"]
    model.write_latent(rows, {name: value.clone() for name, value in our_latent(data, "data/dyn/").items()})
    for key in model.latent_keys:
        rows[key][:, 1:] = torch.nan
    rows["stepid"] = data["data/stepid"]
    return rows


def batch_of(model: DreamerV3, golden: Golden) -> TensorDict:
    return arrival_rows(model, Section(golden, "in"))


@contextmanager
def recorded(owner: type, name: str) -> Iterator[list[tuple[tuple[Any, ...], Any]]]:
    """Calls of a method while the context lasts: arguments after self, and result."""
    calls: list[tuple[tuple[Any, ...], Any]] = []
    original = getattr(owner, name)

    def record(self: object, *arguments: Any) -> Any:
        result = original(self, *arguments)
        calls.append((arguments, result))
        return result

    with mock.patch.object(owner, name, record):
        yield calls


class LearnedFrom(NamedTuple):
    """What the model's loss reads of a batch, [B, T] but for the carry [B]."""

    carry: Latent
    action: Tensor
    observation: Observation
    is_init: Tensor
    reward: Tensor
    terminated: Tensor

    def filtered(self, model: DreamerV3) -> RecurrentState:
        return model.filter_sequence(self.carry, self.action, self.observation, self.is_init, ModeNoise())


def learned_from(model: DreamerV3, golden: Golden) -> LearnedFrom:
    with recorded(DreamerV3, "filter_sequence") as filtered, recorded(DreamerV3, "loss_terms") as learned:
        model.compute_loss(batch_of(model, golden), ModeNoise())
    ((carry, action, observation, is_init, _), _), ((_, _, reward, terminated), _) = filtered[0], learned[0]
    return LearnedFrom(carry, action, observation, is_init, reward, terminated)


class RecordedClasses(ModeNoise):
    """Draws the classes of recorded states [B, T, S, K] one step after the other."""

    def __init__(self, stochastic: Tensor) -> None:
        self.classes = list(stochastic.argmax(-1).unbind(1))

    def category(self, name: str, probabilities: Tensor) -> Tensor:
        return self.classes.pop(0)


def official_gradients(
    model: DreamerV3, parameters: Sequence[str], gradients: Sequence[Tensor | None]
) -> dict[str, Tensor]:
    """Gradients by official name in official layout, without those that are None."""
    by_name = dict(zip(parameters, gradients, strict=True))
    found = {part.official: (by_name.get(part.ours), part.save) for part in counterparts(model)}
    return {name: save(gradient) for name, (gradient, save) in found.items() if gradient is not None}


def trainable(model: DreamerV3) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


# ------------------------------------------------------------------ weights


@check("param")
def test_every_weight_arrives_under_its_name(section: Section) -> None:
    model = loaded_model(section.golden)
    state = model.state_dict()
    parts = counterparts(model)
    assert {part.ours for part in parts} == set(state)
    for part in parts:
        assert torch.equal(part.save(state[part.ours]), section[part.official]), part.official
        assert torch.equal(part.load(part.save(state[part.ours])), state[part.ours]), part.official
    section.exclude("slowval_count/value", "The slow critic follows at every update, so there is nothing to count.")


@check("init")
def test_initial_weights_are_as_large_as_the_official_ones(section: Section) -> None:
    names = section.golden.metadata["param_names_sorted"]
    expected = dict(zip(names, section["param_abs_mean_by_name_sorted"].tolist(), strict=True))
    torch.manual_seed(0)
    model = fresh_model(section.golden)
    state = model.state_dict()
    for part in counterparts(model):
        weight, mean = state[part.ours], expected.pop(part.official)
        if mean in (0.0, 1.0):
            assert torch.equal(weight, torch.full_like(weight, mean)), part.official
        else:  # two samples, each with a standard deviation of 0.75 of the mean
            bound = 4 * 0.75 * math.sqrt(2 / weight.numel())
            assert weight.abs().mean().item() == pytest.approx(mean, rel=bound), part.official
    assert set(expected) == {"slowval_count/value"}


# ------------------------------------------------------------------ what is learned from


@check("in")
def test_a_replay_batch_as_arrival_rows(section: Section) -> None:
    """The context row gives its latent and its action only."""
    model = loaded_model(section.golden)
    arrival_rows(model, section)
    given = learned_from(model, section.golden)
    assert not section["data/consec"].any()
    assert torch.equal(given.carry["deterministic"], section["data/dyn/deter"][:, 0])
    assert torch.equal(given.carry["stochastic"], section["data/dyn/stoch"][:, 0])
    section.exclude(
        "carry/.*", "Only rows that go on from the last training call start from it, which no preset has (consec > 0)."
    )


@check("batch")
def test_the_loss_reads_what_the_official_one_reads(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    given = learned_from(model, golden)
    assert torch.equal(given.carry["deterministic"], section["carry/deter"])
    assert torch.equal(given.carry["stochastic"], section["carry/stoch"])
    assert torch.equal(given.action, flat_action(model, section, "prevact"))
    assert torch.equal(given.is_init.squeeze(-1), section["obs/is_first"])
    assert torch.equal(given.reward.squeeze(-1), section["obs/reward"])
    assert torch.equal(given.terminated.squeeze(-1), section["obs/is_terminal"])
    rows = batch_of(model, golden)[:, model.config.replay_context :]
    assert torch.equal((rows["terminated"] | rows["truncated"]).squeeze(-1), section["obs/is_last"])
    # The files leave images out here.
    values = {
        key: section[f"obs/{key}"] if f"obs/{key}" in section else golden.tensors[f"in/data/{key}"][:, 1:]
        for key in observation_shapes(golden)
    }
    for key, value in our_observation(model, values).items():
        assert torch.equal(given.observation[key], value), key


@check("context")
def test_replay_context(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    given = learned_from(model, golden)
    # Other rows go on from the last training call (consec_train > 1), which no preset does and neither do we.
    ours = (section["in_consec"] == 0).all(-1)
    assert ours.any()
    close_latent({name: value[ours] for name, value in given.carry.items()}, _Rows(section, ours), "carry/")
    assert torch.equal(given.action[ours], flat_action(model, _Rows(section, ours), "prevact"))
    assert torch.equal(given.is_init.squeeze(-1)[ours], section["is_first"][ours])
    assert torch.equal(given.reward.squeeze(-1)[ours], section["reward"][ours])
    rows = batch_of(model, golden)[:, model.config.replay_context :]
    assert torch.equal(rows["stepid"][ours], section["stepid"][ours])


class _Rows(Section):
    """A section of which only some rows are read."""

    def __init__(self, section: Section, rows: Tensor) -> None:
        super().__init__(section.golden, section.name)
        self.left, self.rows = section.left, rows

    def __getitem__(self, name: str) -> Tensor:
        return super().__getitem__(name)[self.rows]


# ------------------------------------------------------------------ the world model


@check("enc")
def test_encoder(section: Section) -> None:
    model = loaded_model(section.golden)
    close(model.encoder(learned_from(model, section.golden).observation), section["tokens"])


@check("layers")
def test_single_layers(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    given, start = learned_from(model, golden), Section(golden, "imagine")
    state, heads = Section(golden, "observe_mode"), Section(golden, "heads")
    first = {name: value[:1, 0] for name, value in our_latent(state).items()}
    with Layers(model) as outputs:
        model.encoder({key: value[:1, 0] for key, value in given.observation.items()})
        model.decoder(first["deterministic"], first["stochastic"].flatten(-2))
        carry, tokens = given.carry, Section(golden, "enc")["tokens"]
        model.rssm.observe(
            carry["deterministic"], carry["stochastic"], given.action[:, 0], tokens[:, 0], given.is_init[:, 0],
            ModeNoise(),
        )  # fmt: skip
        action = flat_action(model, start, "actions")[:, 0]
        model.predict_latent(our_latent(start, "start/"), action, ModeNoise())
        model.behavior.actor(heads["input"])
    for name, expected in section.below().items():
        output = outputs.by_name[name]
        if output.numel() != expected.numel():
            assert expected.shape[1:3] == (8, 8), name  # large maps are cropped to their top left corner
            output = output[:, :8, :8]
        close(output.reshape(expected.shape), expected)


class Layers:
    """Records the first output of every layer that has an official name, before pooling, norm and activation.

    Feature maps have their channels last, as in the official code.
    """

    def __init__(self, model: DreamerV3) -> None:
        self.by_name: dict[str, Tensor] = {}
        self.handles = []
        modules = dict(model.named_modules())
        for part in counterparts(model):
            module = modules.get(part.ours.rpartition(".")[0])
            official, _, leaf = part.official.rpartition("/")
            if module is not None and leaf in ("kernel", "scale"):
                self.handles.append(module.register_forward_hook(self._hook(official)))

    def _hook(self, official: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if official in self.by_name:
                return
            # Our layers hold their norm and activation, our norms the activation: what comes out without them.
            if isinstance(module, nn.Conv2d):
                output = nn.Conv2d.forward(module, *inputs).movedim(-3, -1)
            elif isinstance(module, nn.Linear):
                output = nn.Linear.forward(module, *inputs)
            elif isinstance(module, BlockLinear) and output.dim() == 3:  # block by block
                output = output.transpose(0, 1).flatten(1)
            elif isinstance(module, RMSNormSilu):
                output = nn.functional.rms_norm(*inputs, module.weight.shape, module.weight, module.eps)
            self.by_name[official] = output.detach()

        return hook

    def __enter__(self) -> Layers:
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()


@check("observe_mode")
def test_filtering_a_sequence(section: Section) -> None:
    model = loaded_model(section.golden)
    state = learned_from(model, section.golden).filtered(model)
    close_state(state, section)
    close(model.rssm.prior_parameters(state.deterministic), section["prior_logit"].flatten(-2))
    close_latent(
        {"deterministic": state.deterministic[:, -1], "stochastic": state.stochastic[:, -1]}, section, "carry/"
    )


@check("observe_sampled")
def test_filtering_with_sampled_states(section: Section) -> None:
    model = loaded_model(section.golden)
    given = learned_from(model, section.golden)
    noise = RecordedClasses(section["stoch"])
    state = model.filter_sequence(given.carry, given.action, given.observation, given.is_init, noise)
    close_state(state, section)
    close(model.rssm.prior_parameters(state.deterministic), section["prior_logit"].flatten(-2))
    section.exclude("carry/.*", "The last step, which is compared.")


@check("observe1")
def test_observing_one_row(section: Section) -> None:
    model = loaded_model(section.golden)
    given = learned_from(model, section.golden)
    td = TensorDict({key: value[:, 0] for key, value in given.observation.items()}, given.is_init.shape[:1])
    rows = batch_of(model, section.golden)[:, model.config.replay_context]
    td.update(rows.select("is_init", *model.previous_action_keys))
    model.write_latent(td, given.carry)
    with recorded(RSSM, "observe") as calls:
        model.observe(td)
    close_state(calls[0][1], section)
    close_latent(model.read_latent(td), section)
    close_latent(model.read_latent(td["next"]), section)


@check("imagine")
def test_imagination_starts_at_the_last_posterior(section: Section) -> None:
    model = loaded_model(section.golden)
    state = learned_from(model, section.golden).filtered(model)
    close_latent(
        {"deterministic": state.deterministic[:, -1], "stochastic": state.stochastic[:, -1]}, section, "start/"
    )
    flat_action(model, section, "actions")  # the next tests follow them


@check(r"imagine1_mode|imagine_(mode|sampled)")
def test_imagination_with_given_actions(section: Section) -> None:
    golden, given = section.golden, Section(section.golden, "imagine")
    model = loaded_model(golden)
    action = flat_action(model, given, "actions")
    single = section.name == "imagine1_mode"
    if single:
        action = action[:, :1]
    noise = RecordedClasses(section["stoch"]) if section.name.endswith("sampled") else ModeNoise()
    start = model.write_latent(TensorDict({}, action.shape[:1]), our_latent(given, "start/"))
    with recorded(RSSM, "predict") as calls:
        imagined = model.imagine(start, actions=action, noise=noise)
    state = RecurrentState(*(torch.stack(parts, 1) for parts in zip(*(result for _, result in calls), strict=True)))
    latent = model.read_latent(imagined["next"])
    if single:
        state, latent = (
            RecurrentState(*(part[:, 0] for part in state)),
            {name: part[:, 0] for name, part in latent.items()},
        )
    close_state(state, section)
    close_latent(latent, section)


@check("dec")
def test_decoder(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    latent, observation = our_latent(Section(golden, "observe_mode")), learned_from(model, golden).observation
    outputs = model.decoder(latent["deterministic"], latent["stochastic"].flatten(-2))
    leaves = {leaf.key: leaf for leaf in model.decoder.leaves}
    for key, error in model.decoder.losses(outputs, observation).items():
        name, output = official_key(key), outputs[key]
        expected = section[f"pred/{name}"]
        if key not in leaves:
            output = output[:, : expected.shape[1]].movedim(-3, -1)  # of images the first time steps
        elif leaves[key].classes:
            output = leaves[key].prediction(output)
        close(output.reshape(expected.shape), expected)
        close(error, section[f"loss/{name}"])


# ------------------------------------------------------------------ heads


@check("heads")
def test_heads(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    behavior, features, target = model.behavior, section["input"], section["twohot_target"].unsqueeze(-1)
    latent = our_latent(Section(golden, "observe_mode"))
    close(model.latent_features(latent), features)
    for name, head in (("rew", model.reward_head), ("val", behavior.critic), ("slowval", behavior.slow_critic)):
        logits = head(features)
        close(logits, section[f"{name}/logits"])
        close(head.mean(logits).squeeze(-1), section[f"{name}/pred"])
        close(head.loss(logits, target), section[f"{name}/loss"])
        close(head.bins, section["bins"], {"rtol": 5e-6, "atol": 0.0})  # expm1 of torch and XLA differ by 2e-6

    given = learned_from(model, golden)
    state = RecurrentState(
        latent["deterministic"], latent["stochastic"], Section(golden, "observe_mode")["logit"].flatten(-2)
    )
    with mock.patch("torch.nn.functional.binary_cross_entropy_with_logits", wraps=_cross_entropy) as call:
        terms = model.loss_terms(state, given.observation, target, given.terminated)
    close(terms["reward"], section["rew/loss"])
    close(terms["continue"], section["con/loss"])
    logit, goes_on = call.call_args.args
    close(logit.squeeze(-1), section["con/logit"])
    close(goes_on.squeeze(-1), section["con/target"])
    close(model.continuation(latent).squeeze(-1), section["con/prob1"])

    policy = behavior.actor(features)
    for part in model.action_space.segments:
        key = official_key(part.key)
        location, std = policy.location[..., part.start : part.stop], policy.std[..., part.start : part.stop]
        if part.categories:
            logits = named(section, "pol/", "logits", key).log_softmax(-1)
            close(location, logits.reshape(location.shape))
        else:
            close(location, named(section, "pol/", "mean", key).reshape(location.shape))
            close(std, named(section, "pol/", "stddev", key).reshape(std.shape))
    close(policy.mode, flat_action(model, section, "pol/mode_action"))
    close(policy.sample(ModeNoise()), policy.mode)
    action = flat_action(model, section, "pol/eval_action")
    for name, value in (("logp", policy.log_probability(action)), ("entropy", policy.entropy())):
        if f"pol/{name}" in section:
            expected = section[f"pol/{name}"]
        else:
            expected = sum(named(section, "pol/", name, official_key(key)) for key in model.action_keys)
        close(value.squeeze(-1), expected)


_cross_entropy = nn.functional.binary_cross_entropy_with_logits


# ------------------------------------------------------------------ behaviour


class Imagined(NamedTuple):
    """What an actor-critic loss is made of, time last: before its mean, and without the weights of the two losses."""

    losses: TensorDict
    actor: Tensor
    critic: Tensor
    weight: Tensor
    advantage: Tensor
    log_probability: Tensor
    entropy: Tensor


def taken_apart(loss: ImaginedActorCriticLoss, call: Callable[[], TensorDict]) -> Imagined:
    """The losses are linear in log-probability, entropy and critic error: their gradients are the factors before it."""
    with (
        recorded(ActionDistribution, "log_probability") as log_probabilities,
        recorded(ActionDistribution, "entropy") as entropies,
        recorded(TwoHotHead, "loss") as errors,
    ):
        losses = call()
    ((_, log_probability),), ((_, entropy),), ((_, error),) = log_probabilities, entropies, errors
    count = error.numel()
    actor, critic = losses["loss_actor"] * count / loss.actor_coef, losses["loss_critic"] * count / loss.critic_coef
    by_log, by_entropy = torch.autograd.grad(actor, [log_probability, entropy], retain_graph=True)
    (by_error,) = torch.autograd.grad(critic, [error], retain_graph=True)
    weight = -by_entropy / loss.entropy_coef
    close(by_error, weight.squeeze(-1))
    apart = [
        by_log * log_probability + by_entropy * entropy, weight, -by_log / weight, log_probability, entropy,
    ]  # fmt: skip
    actor_terms, weight, advantage, log_probability, entropy = (
        part.detach().squeeze(-1).movedim(0, -1) for part in apart
    )
    critic_terms = (by_error * error).detach().movedim(0, -1)
    return Imagined(losses, actor_terms, critic_terms, weight, advantage, log_probability, entropy)


def posterior_of(model: DreamerV3, golden: Golden) -> TensorDictBase:
    """[B, T]"""
    _, posterior = model.compute_loss(batch_of(model, golden), ModeNoise())
    return posterior[:, model.config.replay_context :]


def return_range(model: DreamerV3) -> Tensor:
    return torch.stack([model.behavior.return_range.low, model.behavior.return_range.high])


@check("imag")
def test_learning_in_imagination(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    posterior = posterior_of(model, golden)
    loss = make_losses(model).actor_critic
    with recorded(ImaginedActorCriticLoss, "losses") as calls:
        close(return_range(model), section["retnorm_before"])
        apart = taken_apart(loss, lambda: loss(posterior, ModeNoise()))
        close(return_range(model), section["retnorm_after"])
    scaling = torch.stack([model.behavior.return_range.low, model.behavior.return_range.scale()])
    close(scaling, section["retnorm_stats"])
    close(apart.losses["return_scale"], section["retnorm_stats"][1])

    # What was imagined, [H + 1, B, T] with us and [B · T, H + 1] with them.
    (features, action, reward, continuation, discount), _ = calls[0]
    features, action = (x.movedim(0, -2) for x in (features, action))
    reward, continuation = (x.movedim(0, -1) for x in (reward, continuation))
    features = features.flatten(0, 1)
    deterministic, stochastic = features.split([model.config.deterministic, model.rssm.space.features_width], -1)
    latent = {"deterministic": deterministic, "stochastic": stochastic.unflatten(-1, model.rssm.space.shape)}
    close_latent(latent, section, "feat/")
    state = learned_from(model, golden).filtered(model)
    prior = model.rssm.prior_parameters(latent["deterministic"][:, 1:])
    parameters = torch.cat([state.parameters.flatten(0, 1).unsqueeze(1), prior], 1)
    close(parameters, section["feat/logit"].flatten(-2))
    expected = flat_action(model, section, "act")
    close(action.flatten(0, 1), expected[:, :-1])
    close(model.behavior.actor(features).mode, expected)
    close(continuation.flatten(0, 1), section["con"])
    # No return reads the reward of the start; the official code predicts it all the same.
    close(reward.flatten(0, 1)[:, 1:], section["rew"][:, 1:])
    close(model.decode_latent(latent)["reward"].squeeze(-1), section["rew"])
    assert torch.equal(discount, torch.ones(()))

    behavior = model.behavior
    close(behavior.critic.mean(behavior.critic(features)).squeeze(-1), section["val"])
    close(behavior.slow_critic.mean(behavior.slow_critic(features)).squeeze(-1), section["slowval"])
    close(apart.losses[LAMBDA_RETURN].flatten(0, 1), section["ret"])
    close(apart.advantage.flatten(0, 1), section["adv"])
    # Of the last step only the value is used, so we have no more of it.
    for name, ours in (("weight", apart.weight), ("logpi", apart.log_probability), ("ent", apart.entropy)):
        close(ours.flatten(0, 1), section[name][:, :-1])
    close(apart.actor.flatten(0, 1), section["policy_loss"])
    close(apart.critic.flatten(0, 1), section["value_loss"])


@check("repl")
def test_learning_from_replayed_rewards(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    losses, posterior = make_losses(model), posterior_of(model, golden)
    boot = losses.actor_critic(posterior, ModeNoise())["lambda_return"][..., 0]
    close(boot, section["boot"])
    rows = batch_of(model, golden)[:, model.config.replay_context :]
    with recorded(type(losses.replay_value), "terms") as calls, recorded(TwoHotHead, "loss") as errors:
        losses.replay_value(posterior, rows, boot)
    ((features, *_), terms), ((_, returns, (_, slow)), _) = calls[0], errors[0]
    close(terms, section["loss"])
    close(returns.squeeze(-1), section["ret"])
    behavior = model.behavior
    close(behavior.critic.mean(behavior.critic(features)).squeeze(-1), section["val"])
    close(slow.squeeze(-1), section["slowval"][:, :-1])
    close(behavior.slow_critic.mean(behavior.slow_critic(features)).squeeze(-1), section["slowval"])


@check("imagloss")
def test_actor_and_critic_losses_of_random_actions(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    features = model.latent_features(our_latent(Section(golden, "imag"), "feat/"))
    action = flat_action(model, section, "in/act")
    loss = make_losses(model).actor_critic
    apart = taken_apart(
        loss,
        lambda: loss.losses(
            features.transpose(0, 1),
            action[:, :-1].transpose(0, 1),
            section["in/rew"].T,
            section["in/con"].T,
            model.discounts,
        ),
    )
    close(apart.losses[LAMBDA_RETURN].T, section["ret"])
    close(return_range(model), section["retnorm_after"])
    close(apart.actor, section["policy_loss"])
    close(apart.critic, section["value_loss"])
    total = apart.losses["loss_actor"] / loss.actor_coef + apart.losses["loss_critic"] / loss.critic_coef
    close(total, section["loss"])
    parameters = trainable(model)
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    ours, theirs = official_gradients(model, list(parameters), gradients), section.below("grad")
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        same_direction(ours[name], expected, name)


# ------------------------------------------------------------------ the whole loss


def coefficients(model: DreamerV3) -> dict[str, float]:
    config = model.config
    return {
        **model.loss_weights,
        "actor": config.actor_coef,
        "critic": config.critic_coef,
        "replay_value": config.replay_value_coef,
    }


def our_loss(official: str) -> str:
    return LOSSES.get(official) or f"reconstruction_{official}"


@check("loss")
def test_loss(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    keys, weights = golden.metadata["loss_keys_sorted"], coefficients(model)
    assert {our_loss(key) for key in keys} == set(weights)
    for key, scale in zip(keys, section["scales_sorted_by_key"].tolist(), strict=True):
        assert weights[our_loss(key)] == pytest.approx(scale), key

    losses, rows = make_losses(model), batch_of(model, golden)
    terms, posterior = model.compute_loss(rows, ModeNoise())
    rows, posterior = rows[:, model.config.replay_context :], posterior[:, model.config.replay_context :]
    apart = taken_apart(losses.actor_critic, lambda: losses.actor_critic(posterior, ModeNoise()))
    with recorded(type(losses.replay_value), "terms") as calls:
        losses.replay_value(posterior, rows, apart.losses[LAMBDA_RETURN][..., 0])
    terms |= {"actor": apart.actor.mean(-1), "critic": apart.critic.mean(-1), "replay_value": calls[0][1]}
    for key in keys:
        close(terms[our_loss(key)], section[f"raw/{key}"])

    model = loaded_model(golden)
    weighted, metrics, _ = compute_losses(make_losses(model), batch_of(model, golden), ModeNoise())
    close(torch.stack(list(weighted.values())).sum(), section["total"])
    for key in keys:
        close(weighted[f"loss_{our_loss(key)}"], weights[our_loss(key)] * section[f"metrics/loss/{key}"])
    close(metrics["policy_entropy"], sum(section.below("metrics/ent").values()))
    scale, offset = metrics["return_scale"], model.behavior.return_range.low
    close((metrics["imagined_return"] - offset) / scale, section["metrics/ret"])
    close(metrics["imagined_return"], section["metrics/tar"])
    close(apart.advantage.mean(), section["metrics/adv"])
    close(apart.advantage.abs().mean(), section["metrics/adv_mag"])
    close(apart.advantage.std(correction=0), section["metrics/adv_std"])
    section.exclude(
        "metrics/(con|rew|val|slowval|weight)", "Means over the H + 1 steps of imag/*, each of which is compared there."
    )
    section.exclude("metrics/ret_(min|max|rate)", "Statistics of imag/ret, which is compared; we do not log them.")
    section.exclude("metrics/(dyn|rep)_ent", "Entropies of prior and posterior, which we do not log.")
    section.exclude("metrics/rand/.*", "The entropy as a share of the largest one; we log the entropy.")


@check("grad")
def test_gradients(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    weighted, _, _ = compute_losses(make_losses(model), batch_of(model, golden), ModeNoise())
    parameters = trainable(model)
    gradients = torch.autograd.grad(torch.stack(list(weighted.values())).sum(), list(parameters.values()))
    ours, theirs = official_gradients(model, list(parameters), gradients), section.below()
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        if is_rounding(name):
            assert ours[name].norm() < 1e-6, name
            assert expected.norm() < 1e-6, name
        else:
            same_direction(ours[name], expected, name)


def is_rounding(name: str) -> bool:
    """A mean that was also the action has no gradient but rounding."""
    return name.startswith("pol/head/") and "/mean/" in name


@check("gradnorm")
def test_which_loss_reaches_which_module(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    weighted, _, _ = compute_losses(make_losses(model), batch_of(model, golden), ModeNoise())
    weights, parameters = coefficients(model), trainable(model)
    official = {part.ours: part.official for part in counterparts(model)}
    expected = section.below()
    modules = {official[name].split("/")[0] for name in parameters}
    assert {name.split("/")[1] for name in expected} == modules
    for key in golden.metadata["loss_keys_sorted"]:
        term = weighted[f"loss_{our_loss(key)}"] / weights[our_loss(key)]
        gradients = torch.autograd.grad(term, list(parameters.values()), retain_graph=True, allow_unused=True)
        squares = dict.fromkeys(modules, torch.zeros(()))
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                module = official[name].split("/")[0]
                squares[module] = squares[module] + gradient.square().sum()
        for module, square in squares.items():
            norm = expected[f"{key}/{module}"]
            if norm == 0:
                assert square == 0, f"{key} reaches {module}"
            else:
                close(square.sqrt(), norm, {"rtol": GRADIENT, "atol": 0.0})


# ------------------------------------------------------------------ training


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """XLA on a CPU takes numbers below 1.2e-38 for 0, and torch does not.

    It shows where a gradient is below 3e-18, whose square is 0 then: instead of its own size it is divided by eps, and
    the step may be hundreds of learning rates. The critic's far bins have such gradients in these files.
    """
    if torch.get_default_device().type != "cpu" or not torch.set_flush_denormal(True):
        pytest.skip("This device cannot flush denormal numbers, as the one that made the files did.")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@check("train")
def test_consecutive_updates(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    losses, optimizer, weights = make_losses(model), make_optimizer(model), coefficients(model)
    rows = batch_of(model, golden)
    parameters = trainable(model)
    official = {part.official: part for part in counterparts(model)}
    size = sum(parameter.numel() for parameter in parameters.values())
    # Of every weight, how small its gradient was in any update, relative to those of its tensor.
    least = {name: torch.full_like(parameter, torch.inf) for name, parameter in parameters.items()}
    norms: list[Tensor] = []

    def look_at_gradients(*_: object) -> None:
        norms.append(norm_of(parameter.grad for parameter in parameters.values()))
        for name, parameter in parameters.items():
            typical = parameter.grad.square().mean().sqrt()
            least[name] = torch.minimum(least[name], parameter.grad.abs() / typical)

    optimizer.register_step_pre_hook(look_at_gradients)
    moved = 0.0  # the sum of learning rates
    for i in range(1, 1 + len({name.split("/")[1] for name in section.left})):
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        (learning_rate,) = optimizer.learning_rates()
        moved += learning_rate
        with denormals_flushed():
            metrics, posterior = update(losses, optimizer, rows, ModeNoise())

        for key in golden.metadata["loss_keys_sorted"]:
            loss = metrics[f"loss_{our_loss(key)}"] / weights[our_loss(key)]
            close(loss, section[f"step{i}/metrics/loss/{key}"], LATER if i > 1 else FORWARD)
        step = norm_of(parameter.detach() - before[name] for name, parameter in parameters.items())
        logged = {
            "loss": metrics["loss"],
            "grad_norm": norms[-1],
            "grad_rms": norms[-1] / math.sqrt(size),
            "param_rms": norm_of(parameter.detach() for parameter in parameters.values()) / math.sqrt(size),
            "update_rms": step / math.sqrt(size),
            "param_count": torch.tensor(model.num_parameters()),
            "updates": torch.tensor(optimizer.param_groups[0]["updates"]),
        }
        for name, value in logged.items():
            close(value, section[f"step{i}/metrics/opt/{name}"])

        expected = section.below(f"step{i}/param")
        expected.pop("slowval_count/value")  # see the weights
        compare_optimizer(optimizer, model, {name: expected.pop(name) for name in list(expected) if "opt/" in name})
        state = model.state_dict()
        for name, value in expected.items():
            part = official[name]
            ours, gradient = state[part.ours], least.get(part.ours.replace("slow_critic", "critic"))
            if gradient is None:  # the range of returns
                close(ours, value)
            elif learning_rate == 0 and part.ours in before:
                assert torch.equal(ours, before[part.ours]), name
                assert torch.equal(ours, part.load(value)), name
            elif is_rounding(name):
                assert (ours - part.load(value)).abs().max() <= 3 * moved, name
            else:
                # Steps are about as long for small gradients as for large ones, so rounding shows in the smallest.
                error = (ours - part.load(value)).abs() - 5e-7 * ours.abs()
                assert (gradient[error > 0.01 * moved] < 1e-3).all(), name
                assert error.max() <= 3 * moved, name

        if f"step{i}/outs/dyn/deter" in section:
            latent = model.read_latent(posterior)
            close_latent(latent, section, f"step{i}/outs/dyn/")
            close(latent["deterministic"][:, -1], section[f"step{i}/carry/deter"])
            learned = rows[:, model.config.replay_context :]
            assert torch.equal(learned["stepid"], section[f"step{i}/outs/stepid"])
    section.exclude("step1/carry/prevact.*", "Rows that go on from the last training call are not ours.")


def norm_of(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([x.norm() for x in tensors]).norm()


def compare_optimizer(optimizer: LaProp, model: DreamerV3, expected: Mapping[str, Tensor]) -> None:
    """The state under the names of the chain's links: 1 scaling, 2 momentum, 3 the schedule."""
    parameters = {part.official: (model.get_parameter(part.ours), part.save) for part in counterparts(model)
                  if part.ours in trainable(model)}  # fmt: skip
    kinds = {"opt/state/1/1/": "square_average", "opt/state/2/1/": "momentum"}
    for name, value in expected.items():
        kind = next((kind for start, kind in kinds.items() if name.startswith(start)), None)
        if kind is None:
            assert re.fullmatch("opt/(state/1/0|state/2/0|state/3/count|step/value)", name)
            assert optimizer.param_groups[0]["updates"] == int(value), name
            assert {int(state["step"]) for state in optimizer.state.values()} == {int(value)}
        else:
            parameter, save = parameters[name.split("/", 4)[4]]
            close(save(optimizer.state[parameter][kind]), value, {"rtol": 2e-4, "atol": 1e-5})


# ------------------------------------------------------------------ acting


@check("policy")
@torch.no_grad()
def test_acting(section: Section) -> None:
    golden = section.golden
    model = loaded_model(golden)
    policy = make_policy(model)
    data = {key: golden.tensors[f"in/data/{key}"] for key in observation_shapes(golden)}
    batch = golden.metadata["B"]
    carried = model.write_latent(TensorDict({}, [batch]), model.initial_latent((batch,)))
    for key, part in zip(model.previous_action_keys, model.action_space.segments, strict=True):
        carried[key] = torch.zeros(batch, *part.shape, dtype=part.dtype)
    for t in range(len({name.split("/")[1] for name in section.left})):
        td = carried.copy().update(our_observation(model, {key: value[:, t + 1] for key, value in data.items()}))
        td["is_init"] = section[f"t{t}/is_first"].unsqueeze(-1)
        with set_exploration_type(ExplorationType.RANDOM):
            policy(td)
        close_latent(model.read_latent(td), section, f"t{t}/entries/dyn/")
        close(td[POLICY_ACTION], flat_action(model, section, f"t{t}/action"))
        carried = td["next"].select(*model.latent_keys, *model.previous_action_keys)
