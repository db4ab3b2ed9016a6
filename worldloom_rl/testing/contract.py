"""The contract of a world model as checks that run: `check_world_model` for the tests of any family, ours or yours."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn
from torchrl.envs.utils import check_env_specs
from torchrl.modules import set_recurrent_mode

from worldloom_rl.keys import DONE, KeyMap, as_tuple
from worldloom_rl.noise import GeneratorNoise, ModeNoise, Noise
from worldloom_rl.pretrained.registry import find_family
from worldloom_rl.world_model import Latent, LatentPolicy, Verb, WorldModel
from worldloom_rl.world_model.env import ImaginationEnv

_BATCHES = ((), (5,), (3, 4))
_STEPS = 5  # of sequences and imagined rollouts
_PERTURBATION = 0.05  # standard deviation added to the weights, so that heads that start at zero say something
_RENAMED = {
    "latent": ("renamed", "state"),
    "previous_action": ("renamed", "action_before"),
    "reward": ("renamed", "gain"),
    "continuation": ("renamed", "goes_on"),
    "is_init": ("renamed", "first"),
    "terminated": ("renamed", "ended"),
}


def check_world_model(model: WorldModel, *, observation: TensorDictBase | None = None, seed: int = 0) -> None:
    """Nothing, if the model keeps the contract of `WorldModel`; the first broken rule is an AssertionError naming it.

    The data are drawn from the model's specs, and the checks run on copies built by `type(model)(config, specs…)` with
    slightly perturbed weights, on one CPU thread. The model, its noise and torch's global generator stay as they are.

        check_world_model(MyWorldModel(config, observation_spec, action_spec))

    Args:
        model: on the CPU, of a registered family.
        observation: rows [N, …] from which observations are drawn instead, where random ones make no sense.
        seed: of data, perturbation and noise.

    The rules, in the order of checking: verbs read and write their keys, in any batch shape, without touching their
    inputs; a sequence equals its steps and honours resets; a prediction depends on each action and agrees with
    `decode`; `imagine` equals the rollout of `ImaginationEnv`, whose specs hold; gradients flow; the loss is finite,
    reaches every weight outside `model.behavior` and names what is missing; keys can be renamed; modes are
    deterministic; weights are registered once, build on the meta device and survive saving.
    """
    with _single_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        data = _Data(model, observation)
        subject = _rebuild(model)
        with torch.no_grad():
            for parameter in subject.parameters():
                if parameter.requires_grad:
                    parameter.add_(_PERTURBATION * torch.randn_like(parameter))
        for check in (
            _check_keys,
            _check_values,
            _check_batch_shapes,
            _check_sequences,
            _check_resets,
            _check_prediction,
            _check_imagination,
            _check_environment,
            _check_gradients,
            _check_loss,
            _check_key_map,
            _check_modes,
            _check_registered_weights,
            _check_meta_device,
            _check_saving,
        ):
            check(subject, data)


# ---------------------------------------------------------------------- data


class _Data:
    """Random tensordicts of the model's specs."""

    def __init__(self, model: WorldModel, observation: TensorDictBase | None) -> None:
        self.model = model
        self.given = None if observation is None else observation.select(*model.observation_keys).reshape(-1)

    def observations(self, batch: Sequence[int]) -> TensorDict:
        if self.given is None:
            return self.model.observation_spec.rand(torch.Size(batch))
        rows = self.given[torch.randint(len(self.given), (torch.Size(batch).numel(),))]
        return rows.reshape(*batch).to_tensordict()

    def actions(self, batch: Sequence[int]) -> TensorDict:
        return self.model.action_spec.rand(torch.Size(batch))

    def latents(self, subject: WorldModel, batch: Sequence[int]) -> TensorDict:
        """The latents of random observations, without gradient."""
        with torch.no_grad():
            return subject.encode(self.observations(batch)).select(*subject.latent_keys)

    def rows(self, subject: WorldModel, batch: Sequence[int]) -> TensorDict:
        """Arrival rows without resets; each with a latent of its own, as a carry."""
        names = subject.key_map
        rows = self.observations(batch)
        rows.update(self.latents(subject, batch))
        action = self.actions(batch)
        for key, previous in zip(subject.action_keys, subject.previous_action_keys, strict=True):
            rows.set(previous, action.get(key))
        rows.set(names.reward, torch.randn(*batch, 1))
        for key in (names.is_init, names.terminated, "truncated"):
            rows.set(key, torch.zeros(*batch, 1, dtype=torch.bool))
        return rows

    def inputs(self, subject: WorldModel, batch: Sequence[int]) -> TensorDict:
        """Everything that some verb reads."""
        return self.rows(subject, batch).update(self.actions(batch))


class _ProbePolicy(LatentPolicy):
    """A fixed random policy with draws of its own, over any action space."""

    weight: Tensor

    def __init__(self, model: WorldModel) -> None:
        super().__init__(model)
        width = model.latent_features(model.initial_latent()).shape[-1]
        self.register_buffer("weight", torch.randn(width, model.action_space.width))

    def act(self, latent: Latent, noise: Noise) -> Tensor:
        logits = self.model.latent_features(latent) @ self.weight
        logits = logits + 0.5 * noise.normal("probe", logits.shape, logits)
        action = torch.tanh(logits)
        for start, stop in self.model.action_space.groups:
            chosen = nn.functional.one_hot(logits[..., start:stop].argmax(-1), stop - start).to(logits.dtype)
            action = torch.cat([action[..., :start], chosen, action[..., stop:]], -1)
        return action


def _rebuild(model: WorldModel, key_map: Mapping[str, NestedKey] | None = None) -> WorldModel:
    """The same model, built anew from its configuration and specs, with the same weights."""
    names = model.key_map.to_json() if key_map is None else key_map
    # A family's constructor and configuration; the base class has a wider one.
    own = copy.deepcopy(model.undescribed_modules)
    rebuilt: WorldModel = type(model)(model.config, model.observation_spec, model.action_spec, names, **own)
    rebuilt.load_state_dict(model.state_dict())
    rebuilt.train(model.training)
    return rebuilt


def _seeded(subject: WorldModel, seed: int = 1) -> WorldModel:
    """The model with its noise at the start of the seed's sequence."""
    subject.noise = GeneratorNoise(torch.Generator().manual_seed(seed))
    return subject


@contextmanager
def _single_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# ---------------------------------------------------------------------- comparing


def _require(holds: bool, subject: WorldModel, broken: str) -> None:
    if not holds:
        raise AssertionError(f"{type(subject).__name__} breaks the world model contract: {broken}")


def _leaves(td: TensorDictBase) -> dict[tuple[str, ...], Tensor]:
    return {as_tuple(key): value for key, value in td.items(include_nested=True, leaves_only=True)}


def _require_equal(
    subject: WorldModel, found: TensorDictBase, expected: TensorDictBase, claim: str, *, tolerance: float
) -> None:
    """Raise AssertionError unless both hold the same keys and values; tolerance 0 means bit for bit."""
    left, right = _leaves(found), _leaves(expected)
    _require(set(left) == set(right), subject, f"{claim}; only one of them has {sorted(set(left) ^ set(right))}.")
    for key, value in left.items():
        other = right[key]
        same_kind = value.shape == other.shape and value.dtype == other.dtype
        kinds = f"{tuple(value.shape)} {value.dtype} against {tuple(other.shape)} {other.dtype}"
        _require(same_kind, subject, f"{claim}; {key} is {kinds}.")
        if tolerance and value.is_floating_point():
            equal = torch.allclose(value, other, rtol=tolerance, atol=tolerance)
        else:
            equal = torch.equal(value, other)
        gap = (value.double() - other.double()).abs().max().item() if value.numel() else 0.0
        _require(equal, subject, f"{claim}; {key} differs by up to {gap:.2e}.")


@contextmanager
def _untouched(subject: WorldModel, td: TensorDictBase, doer: str) -> Iterator[None]:
    """Raise AssertionError if the tensors of `td` are changed in place, or leaves added or removed."""
    before = {key: (value, value.detach().clone()) for key, value in _leaves(td).items()}
    yield
    for key, (value, kept) in before.items():
        _require(torch.equal(value, kept), subject, f"{doer} changed its input {key} in place.")
    _require(set(_leaves(td)) == set(before), subject, f"{doer} changed the keys of its input tensordict.")


def _verbs(subject: WorldModel) -> dict[str, Verb]:
    return {"encode": subject.encode, "observe": subject.observe, "predict": subject.predict, "decode": subject.decode}


def _latent_of(subject: WorldModel, td: TensorDictBase) -> TensorDict:
    """Only the latent leaves, as a plain tensordict."""
    return subject.write_latent(TensorDict({}, batch_size=td.batch_size), subject.read_latent(td))


# ---------------------------------------------------------------------- the verbs


def _check_keys(subject: WorldModel, data: _Data) -> None:
    inputs = data.inputs(subject, (4,))
    for name, verb in _verbs(subject).items():
        reads, writes = {as_tuple(key) for key in verb.in_keys}, {as_tuple(key) for key in verb.out_keys}
        given = inputs.select(*verb.in_keys)
        with _untouched(subject, given, name):
            out = verb(given.copy())
        found = set(_leaves(out))
        _require(writes <= found, subject, f"{name} does not write its out_keys {sorted(writes - found)}.")
        extra = found - writes - reads
        _require(not extra, subject, f"{name} writes {sorted(extra)}, which are not among its out_keys.")
        for key in verb.in_keys:
            _require_key_error(subject, verb, given, key, name)
    latent_keys = {as_tuple(key) for key in subject.latent_keys}
    named = {subject.key_map.leaf(leaf) for leaf in subject.latent_spec.keys()}  # noqa: SIM118 (a spec is no mapping)
    _require(latent_keys == named, subject, f"latent_keys are {latent_keys}, but latent_spec has {named}.")


def _require_key_error(
    subject: WorldModel, function: Callable[[TensorDictBase], object], given: TensorDictBase, key: NestedKey, name: str
) -> None:
    """Raise AssertionError unless `function` names `key` in a KeyError when the tensordict lacks it."""
    try:
        function(given.exclude(key))
    except KeyError as error:
        _require(as_tuple(key)[-1] in str(error), subject, f"the KeyError of {name} without {key!r} does not name it.")
    else:
        _require(False, subject, f"{name} does not miss {key!r}: it must raise a KeyError that names the key.")


def _check_values(subject: WorldModel, data: _Data) -> None:
    inputs = data.inputs(subject, (4,))
    for name, verb in _verbs(subject).items():
        out = verb(inputs.select(*verb.in_keys))
        for key in verb.out_keys:
            value = out.get(key)
            _require(bool(value.isfinite().all()), subject, f"{name} writes numbers that are not finite to {key!r}.")
            single = not value.is_floating_point() or value.dtype is torch.float32
            _require(single, subject, f"{name} writes {key!r} as {value.dtype}; real numbers are float32.")
        if name != "decode":
            _require_latent(subject, subject.read_latent(out), (4,), name)
    _require_latent(subject, subject.initial_latent((4,)), (4,), "initial_latent")


def _require_latent(subject: WorldModel, latent: Latent, batch: tuple[int, ...], name: str) -> None:
    for leaf, spec in subject.latent_spec.items():
        value = latent[leaf]
        wanted = (*batch, *spec.shape)
        kind = f"{tuple(value.shape)} {value.dtype}"
        same = tuple(value.shape) == wanted and value.dtype == spec.dtype
        _require(
            same, subject, f"{name} gives the latent leaf {leaf!r} as {kind}, its spec says {wanted} {spec.dtype}."
        )
        inside = spec.expand(*wanted).is_in(value.detach())
        _require(inside, subject, f"{name} gives the latent leaf {leaf!r} values outside its spec {spec}.")


def _check_batch_shapes(subject: WorldModel, data: _Data) -> None:
    for batch in _BATCHES:
        inputs = data.inputs(subject, batch)
        for name, verb in _verbs(subject).items():
            given = inputs.select(*verb.in_keys)
            out = _run(subject, verb, given)
            _require(tuple(out.batch_size) == batch, subject, f"{name} changes the batch size {batch} of its input.")
            for key in verb.out_keys:
                lead = tuple(out.get(key).shape[: len(batch)])
                _require(lead == batch, subject, f"{name} writes {key!r} of leading shape {lead} for a batch {batch}.")
            if len(batch) > 1:
                flat = _run(subject, verb, given.reshape(-1)).reshape(*batch)
                claim = f"{name} of a batch {batch} differs from the same rows side by side under the same noise"
                _require_equal(subject, out, flat, claim, tolerance=1e-5)
        latent = subject.read_latent(inputs)
        features, discount, mask = (
            subject.latent_features(latent),
            subject.discount(latent),
            subject.action_mask(latent),
        )
        _require(
            tuple(features.shape[:-1]) == batch, subject, f"latent_features are {tuple(features.shape)} for {batch}."
        )
        _require(torch.equal(subject.features(inputs), features), subject, "features(td) differs from latent_features.")
        broadcast = tuple((discount + torch.zeros(*batch, 1)).shape) == (*batch, 1)
        _require(broadcast, subject, f"discount is {tuple(discount.shape)}, not broadcastable against {(*batch, 1)}.")
        within = bool(((discount >= 0) & (discount <= 1)).all())
        _require(within, subject, f"discount must lie in [0, 1], got {discount.tolist()}.")
        width = (*batch, subject.action_space.width)
        _require(mask is None or tuple(mask.shape) == width, subject, f"action_mask must be None or of shape {width}.")


def _run(subject: WorldModel, verb: Verb, given: TensorDictBase, seed: int = 1) -> TensorDictBase:
    """The verb on a copy of `given`, under the seed's noise."""
    _seeded(subject, seed)
    with torch.no_grad():
        return verb(given.copy())


# ---------------------------------------------------------------------- filtering


def _observe_sequence(subject: WorldModel, rows: TensorDictBase) -> TensorDict:
    with torch.no_grad(), set_recurrent_mode(True):
        return _latent_of(subject, subject.observe(rows.select(*subject.in_keys)))


def _observe_steps(subject: WorldModel, rows: TensorDictBase) -> TensorDict:
    """The latents of single steps, each given the one before as its carry."""
    time = rows.batch_dims - 1
    carry = subject.read_latent(rows.select(*subject.latent_keys).unbind(time)[0])
    found = []
    for step in rows.select(*subject.in_keys).unbind(time):
        row = step.clone()
        if subject.recurrent:
            subject.write_latent(row, carry)
        with torch.no_grad():
            row = subject.observe(row)
        found.append(_latent_of(subject, row))
        carry = subject.read_latent(row)
        if subject.recurrent:
            carried = _latent_of(subject, row.get("next"))
            claim = "the latent that observe carries under 'next' differs from the one at the root"
            _require_equal(subject, carried, found[-1], claim, tolerance=0.0)
    steps: TensorDict = TensorDict.stack(found, time)
    return steps


def _check_sequences(subject: WorldModel, data: _Data) -> None:
    for batch in ((_STEPS,), (3, _STEPS), (2, 2, _STEPS)):
        rows = data.rows(subject, batch)
        with _untouched(subject, rows, "observe over time"):
            sequence = _observe_sequence(_seeded(subject), rows)
        steps = _observe_steps(_seeded(subject), rows)
        claim = f"observe over a sequence {batch} differs from its single steps under the same noise"
        _require_equal(subject, sequence, steps, claim, tolerance=1e-5)
    if subject.recurrent:
        other = rows.clone().update(data.latents(subject, batch))
        changed = any(
            not torch.equal(left, right)
            for left, right in zip(
                _observe_sequence(_seeded(subject), other).values(True, True),
                sequence.values(True, True),
                strict=True,
            )
        )
        _require(changed, subject, "observe ignores the carried latent, though the model calls itself recurrent.")


def _check_resets(subject: WorldModel, data: _Data) -> None:
    batch, reset, names = 3, 2, subject.key_map
    rows = data.rows(subject, (batch, _STEPS))
    first = _observe_sequence(_seeded(subject), rows[:, :reset])

    both = rows.clone()
    both.get(names.is_init)[:, reset] = True
    # What leads to an initial row must not matter: the second part has another carry and another previous action.
    second = both[:, reset:].clone()
    second.update(data.latents(subject, second.batch_size))
    action = data.actions(second.batch_size)
    for key, previous in zip(subject.action_keys, subject.previous_action_keys, strict=True):
        second.get(previous)[:, 0] = action.get(key)[:, 0]

    whole = _observe_sequence(_seeded(subject), both)
    parts = TensorDict.cat(
        [_observe_sequence(_seeded(subject), rows[:, :reset]), _observe_sequence(subject, second)], 1
    )
    claim = "is_init inside a sequence does not reset it: observe differs from two sequences under the same noise"
    _require_equal(subject, whole, parts, claim, tolerance=1e-5)
    _require_equal(subject, whole[:, :reset], first, "a reset changes the rows before it", tolerance=1e-5)

    single = rows.clone()
    single.get(names.is_init)[1, reset] = True
    mixed, unbroken = _observe_sequence(_seeded(subject), single), _observe_sequence(_seeded(subject), rows)
    claim = "a reset of one row of the batch does not reset that row alone"
    _require_equal(subject, mixed[1], whole[1], claim, tolerance=1e-5)
    _require_equal(subject, mixed[[0, 2]], unbroken[[0, 2]], claim, tolerance=1e-5)

    initial = rows[:, 0].clone()
    initial.get(names.is_init).fill_(True)
    observed = _latent_of(subject, _run(subject, subject.observe, initial.select(*subject.in_keys)))
    encoded = _latent_of(subject, _run(subject, subject.encode, initial.select(*subject.observation_keys)))
    claim = "encode differs from observe on an initial row under the same noise"
    _require_equal(subject, encoded, observed, claim, tolerance=1e-5)


# ---------------------------------------------------------------------- prediction


def _check_prediction(subject: WorldModel, data: _Data) -> None:
    names, batch = subject.key_map, (16,)
    observations = data.observations(batch)
    start = _run(subject, subject.encode, observations).update(data.actions(batch))
    given = start.select(*subject.latent_keys, *subject.action_keys)
    arrived = _run(subject, subject.predict, given)
    for key in (names.reward, names.continuation):
        shape = tuple(arrived.get(key).shape)
        _require(shape == (*batch, 1), subject, f"predict writes {key!r} of shape {shape}, expected {(*batch, 1)}.")
    goes_on = arrived.get(names.continuation)
    inside = bool(((goes_on >= 0) & (goes_on <= 1)).all())
    _require(
        inside,
        subject,
        f"{names.continuation!r} is a probability, but predict writes {goes_on.min():.3g} … {goes_on.max():.3g}.",
    )

    for key in subject.action_keys:
        other = given.clone().set(key, data.actions(batch).get(key))
        changed = _run(subject, subject.predict, other)
        # Of the features, not of any leaf: an action that the latent only remembers has not changed what is predicted.
        depends = not torch.equal(subject.features(arrived), subject.features(changed))
        depends |= not torch.equal(arrived.get(names.reward), changed.get(names.reward))
        claim = f"predict ignores the action {key!r}: neither the latent's features nor the reward depend on it."
        _require(depends, subject, claim)

    moved = _run(subject, subject.predict, given.clone().update(data.actions(batch)))
    for leaf, value in subject.read_latent(start).items():
        sources = [source for source in observations.values(True, True) if source.shape == value.shape]
        if any(torch.equal(source, value) for source in sources if source.dtype == value.dtype):
            # An observed state that actions move, such as a pose, is no context.
            moves = not torch.equal(arrived.get(names.leaf(leaf)), moved.get(names.leaf(leaf)))
            kept = moves or torch.equal(arrived.get(names.leaf(leaf)), value)
            _require(
                kept, subject, f"predict changes the context leaf {leaf!r}, which encode copies from the observation."
            )

    decoded = _run(subject, subject.decode, arrived.select(*subject.latent_keys))
    for key in subject.decode.out_keys:
        if as_tuple(key) in (as_tuple(names.reward), as_tuple(names.continuation)):
            same = torch.allclose(decoded.get(key), arrived.get(key), rtol=1e-5, atol=1e-6)
            _require(same, subject, f"decode and predict disagree on {key!r} of the same latent.")


def _check_imagination(subject: WorldModel, data: _Data) -> None:
    policy = _ProbePolicy(subject)
    for batch in _BATCHES:
        start = data.latents(subject, batch).set("note", torch.arange(torch.Size(batch).numel()).reshape(batch))
        flat = policy.act(subject.read_latent(data.latents(subject, (*batch, _STEPS))), GeneratorNoise())
        written = subject.write_action(TensorDict({}, batch_size=(*batch, _STEPS)), flat)
        for how, actor, given in (
            ("a latent policy", policy, None),
            ("a tensordict policy", TensorDictSequential(policy), None),
            ("flat actions", None, flat),
            ("an action tensordict", None, written),
        ):
            with _untouched(subject, start, "imagine"), torch.no_grad():
                horizon = _STEPS if given is None else None
                imagined = _seeded(subject).imagine(start, actor, actions=given, horizon=horizon)
            with torch.no_grad():
                rollout = _rollout(_seeded(subject), actor or _Scripted(subject, written), start)
            claim = f"imagine with {how} from a batch {batch} differs from the rollout of ImaginationEnv"
            _require_equal(subject, imagined, rollout, claim, tolerance=0.0)
        at_start = subject.decode(_latent_of(subject, start)).get(subject.key_map.continuation, None)
        expected = torch.ones(*batch, 1) if at_start is None else at_start
        first = imagined.get(subject.key_map.continuation).select(len(batch), 0)
        claim = "imagination does not start from decode's probability of going on (ones without a head)"
        _require(torch.allclose(first, expected, rtol=1e-5, atol=1e-6), subject, f"{claim}.")
        for leaf in subject.latent_keys:
            kept = torch.equal(imagined.get(leaf).select(len(batch), 0), start.get(leaf))
            _require(kept, subject, f"imagine does not keep the start's {leaf!r} bit for bit.")


class _Scripted(TensorDictModuleBase):  # type: ignore[misc]  # tensordict is untyped
    """A policy that writes given actions [*B, H], one step after the other."""

    def __init__(self, model: WorldModel, actions: TensorDictBase) -> None:
        super().__init__()
        self.in_keys: list[NestedKey] = []
        self.out_keys = list(model.action_keys)
        self.steps = iter(actions.unbind(-1))

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.update(next(self.steps))


def _rollout(subject: WorldModel, policy: TensorDictModuleBase, start: TensorDictBase) -> TensorDict:
    env = ImaginationEnv(subject)
    rollout: TensorDict = env.rollout(_STEPS, policy, tensordict=start.clone(False), set_state=True)
    return rollout


def _check_environment(subject: WorldModel, data: _Data) -> None:
    for hard in (False, True):
        check_env_specs(ImaginationEnv(subject, hard_termination=hard))
    # A truncated or reset batch would be shorter, or done at the root.
    env = ImaginationEnv(subject, hard_termination=True)
    rollout = env.rollout(_STEPS, tensordict=data.latents(subject, (5,)), set_state=True)
    whole = tuple(rollout.batch_size) == (5, _STEPS) and not rollout.get(DONE).any()
    _require(whole, subject, f"a hard termination stops imagination: the rollout is {tuple(rollout.batch_size)}.")


def _check_gradients(subject: WorldModel, data: _Data) -> None:
    start = data.latents(subject, (6,)).update(data.actions((6,)))
    leaves = [key for key in subject.latent_keys if start.get(key).is_floating_point()]
    for key in leaves:
        start.get(key).requires_grad_()
    prediction = _seeded(subject).predict(start.clone(False))
    arrived = [prediction.get(key) for key in leaves]
    outcomes = {
        "reward": prediction.get(subject.key_map.reward).sum(),
        # Weighted, because the entries of a softmax or a one-hot sum to a constant.
        "latent": torch.stack([(value * torch.randn_like(value)).sum() for value in arrived]).sum(),
    }
    parameters = [parameter for parameter in subject.parameters() if parameter.requires_grad]
    reached: set[NestedKey] = set()
    for what, outcome in outcomes.items():
        _require(outcome.requires_grad, subject, f"the predicted {what} has no gradient.")
        sources = [*(start.get(key) for key in leaves), *parameters]
        gradients = torch.autograd.grad(outcome, sources, retain_graph=True, allow_unused=True)
        moved = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        reached |= {key for key, nonzero in zip(leaves, moved, strict=False) if nonzero}
        _require(any(moved[: len(leaves)]), subject, f"no gradient of the predicted {what} reaches the start latent.")
        _require(any(moved[len(leaves) :]), subject, f"no gradient of the predicted {what} reaches the weights.")
    _require(reached == set(leaves), subject, f"no gradient of a prediction reaches {sorted(set(leaves) - reached)}.")

    policy = _ProbePolicy(subject)
    origin = start.select(*subject.latent_keys).detach()
    found = []
    for fused in (True, False):
        td = origin.clone()
        for key in leaves:
            td.get(key).requires_grad_()
        sources = [*(td.get(key) for key in leaves), *parameters]
        _seeded(subject)
        imagined = subject.imagine(td, policy, horizon=_STEPS) if fused else _rollout(subject, policy, td)
        returns = imagined.get(("next", *as_tuple(subject.key_map.reward))).sum()
        found.append(torch.autograd.grad(returns, sources, allow_unused=True))
    for left, right in zip(*found, strict=True):
        same = (left is None) == (right is None)
        if left is not None and right is not None:
            same = bool((left - right).norm() <= 1e-5 * right.norm() + 1e-8)
        _require(same, subject, "gradients of imagine differ from those of the rollout of ImaginationEnv.")


# ---------------------------------------------------------------------- learning


def _arrivals(subject: WorldModel, data: _Data) -> TensorDict:
    """Rows [4, T] of one episode each; one ends. A recurrent model also gets a reset inside a window."""
    rows = data.rows(subject, (4, _STEPS))
    rows.get(subject.key_map.terminated)[1, -1] = True
    if subject.recurrent:
        rows.get(subject.key_map.is_init)[2, 2] = True
        for key in subject.previous_action_keys:
            rows.get(key)[2, 2] = 0
    return rows


def _check_loss(subject: WorldModel, data: _Data) -> None:
    rows = _arrivals(subject, data)
    subject.zero_grad(set_to_none=True)
    with _untouched(subject, rows, "compute_loss"):
        terms, posterior = _seeded(subject).compute_loss(rows)
    _require(bool(terms), subject, "compute_loss gives no terms.")
    for name, term in terms.items():
        finite = term.dtype is torch.float32 and bool(term.isfinite().all())
        _require(finite, subject, f"the loss term {name!r} is not finite in float32.")
        _require(term.requires_grad, subject, f"the loss term {name!r} has no gradient.")
    latent = subject.read_latent(posterior)
    _require_latent(subject, latent, tuple(rows.batch_size), "compute_loss")
    attached = any(value.requires_grad for value in latent.values())
    frozen = not any(value.requires_grad for value in subject.read_latent(subject.observe(rows.copy())).values())
    claim = "the posterior of compute_loss is detached; what follows decides that, not the model"
    _require(attached or frozen, subject, f"{claim}.")
    torch.autograd.backward([term.mean() for term in terms.values()])
    for name, parameter in subject.named_parameters():
        if parameter.requires_grad and not name.startswith("behavior."):
            learns = parameter.grad is not None and bool(parameter.grad.isfinite().all())
            _require(learns, subject, f"compute_loss gives the weight {name!r} no finite gradient.")
    subject.zero_grad(set_to_none=True)
    for key in subject.loss_keys:
        _require_key_error(subject, subject.compute_loss, rows, key, "compute_loss")


# ---------------------------------------------------------------------- keys, noise, weights


def _check_key_map(subject: WorldModel, data: _Data) -> None:
    renamed = _rebuild(subject, _RENAMED)
    inputs = _arrivals(subject, data).update(data.actions((4, _STEPS)))
    moved = inputs.copy()
    for key, other in _renaming(subject, renamed).items():
        if key in _leaves(moved):
            moved.rename_key_(key, other)
    # A leaf that stands under its old name was written by a literal key.
    back = {key: ("not renamed", *key) for key in _renaming(subject, renamed)}
    back |= {other: key for key, other in _renaming(subject, renamed).items()}
    for (name, verb), other_verb in zip(_verbs(subject).items(), _verbs(renamed).values(), strict=True):
        expected = _leaves(_run(subject, verb, inputs.select(*verb.in_keys)))
        found = _leaves(_run(renamed, other_verb, moved.select(*other_verb.in_keys)))
        under_old = {("next", *back[key[1:]]) if key[0] == "next" else back.get(key, key): key for key in found}
        claim = f"{name} with renamed keys {_RENAMED} writes {sorted(found)}"
        _require(set(under_old) == set(expected), subject, f"{claim}, which is not the renamed {sorted(expected)}.")
        for key, value in expected.items():
            _require(torch.equal(found[under_old[key]], value), subject, f"{claim}, but {key} has another value.")
    expected_terms, _ = _seeded(subject).compute_loss(inputs)
    found_terms, posterior = _seeded(renamed).compute_loss(moved)
    _require_latent(renamed, renamed.read_latent(posterior), (4, _STEPS), "compute_loss with renamed keys")
    for name, term in expected_terms.items():
        same = torch.allclose(found_terms[name], term, rtol=1e-5, atol=1e-6)
        _require(same, subject, f"compute_loss with renamed keys gives another {name!r}.")
    start = data.latents(renamed, (3,))
    policy = _ProbePolicy(renamed)
    with torch.no_grad():
        imagined = _seeded(renamed).imagine(start, policy, horizon=2)
        env = ImaginationEnv(_seeded(renamed))
        rollout = env.rollout(2, policy, tensordict=start.clone(), set_state=True)
    claim = "with renamed keys imagine differs from the rollout of ImaginationEnv"
    _require_equal(subject, imagined, rollout, claim, tolerance=0.0)
    check_env_specs(ImaginationEnv(renamed))


def _renaming(subject: WorldModel, renamed: WorldModel) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Each leaf key of the contract and what it is called in the renamed model."""
    pairs: list[tuple[NestedKey, NestedKey]] = [
        *zip(subject.latent_keys, renamed.latent_keys, strict=True),
        *zip(subject.previous_action_keys, renamed.previous_action_keys, strict=True),
    ]
    for name in KeyMap().to_json():
        if name not in ("latent", "previous_action"):
            pairs.append((getattr(subject.key_map, name), getattr(renamed.key_map, name)))
    return {as_tuple(key): as_tuple(other) for key, other in pairs}


def _check_modes(subject: WorldModel, data: _Data) -> None:
    inputs = data.inputs(subject, (4,))
    for name, verb in _verbs(subject).items():
        given = inputs.select(*verb.in_keys)
        outs = []
        for _ in range(2):  # torch's global generator moves on in between, which must not matter
            subject.noise = ModeNoise()
            torch.rand(1)
            with torch.no_grad():
                outs.append(verb(given.copy()))
        claim = f"{name} under ModeNoise is not deterministic: something draws without the noise source"
        _require_equal(subject, outs[0], outs[1], claim, tolerance=0.0)


def _check_registered_weights(subject: WorldModel, data: _Data) -> None:
    width = subject.latent_features(subject.initial_latent()).shape[-1]
    head = nn.Linear(width, 1)

    def read(*leaves: Tensor) -> Tensor:
        value: Tensor = head(subject.latent_features(dict(zip(subject.latent_spec.keys(), leaves, strict=True))))
        return value

    value = TensorDictModule(read, in_keys=list(subject.latent_keys), out_keys=["value"])
    value.head = head
    for verb in _verbs(subject).values():
        sequence = TensorDictSequential(verb, value)
        found = [id(parameter) for parameter in sequence.parameters()]
        expected = {id(parameter) for parameter in (*subject.parameters(), *head.parameters())}
        once = len(found) == len(set(found)) and set(found) == expected
        _require(once, subject, f"a sequence with {type(verb).__name__} does not hold each weight of the model once.")
    storages: dict[int, str] = {}
    for name, tensor in subject.state_dict().items():
        first = storages.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        _require(first == name, subject, f"state_dict holds one tensor under two names, {first!r} and {name!r}.")


def _check_meta_device(subject: WorldModel, data: _Data) -> None:
    own = {name: copy.deepcopy(module).to("meta") for name, module in subject.undescribed_modules.items()}
    with torch.device("meta"):
        built = type(subject)(subject.config, subject.observation_spec, subject.action_spec, None, **own)
    for name, tensor in (*built.named_parameters(), *built.named_buffers()):
        _require(
            tensor.is_meta, subject, f"built under torch.device('meta'), {name!r} takes memory on {tensor.device}."
        )
    shapes = {name: tensor.shape for name, tensor in subject.state_dict().items()}
    on_meta = {name: tensor.shape for name, tensor in built.state_dict().items()}
    _require(on_meta == shapes, subject, "built under torch.device('meta'), the model has other tensors.")
    same = built.num_parameters() == subject.num_parameters()
    _require(same, subject, "built under torch.device('meta'), the model counts other parameters.")


def _check_saving(subject: WorldModel, data: _Data) -> None:
    registered = find_family(subject.model_type).model_class
    _require(
        registered is type(subject),
        subject,
        f"its model_type {subject.model_type!r} is registered by {registered}, so it would be loaded as another class.",
    )
    inputs = data.inputs(subject, (4,))
    with tempfile.TemporaryDirectory() as folder:
        subject.save_pretrained(Path(folder) / "model")
        own = copy.deepcopy(subject.undescribed_modules)
        loaded = type(subject).from_pretrained(Path(folder) / "model", **own).train(subject.training)
    for name, verb in _verbs(subject).items():
        claim = f"{name} of the saved and loaded model differs"
        given = inputs.select(*verb.in_keys)
        found, expected = _run(loaded, _verbs(loaded)[name], given), _run(subject, verb, given)
        _require_equal(subject, found, expected, claim, tolerance=0.0)
