"""`imagine` equals the rollout of `ImaginationEnv`, whose specs hold, and gradients flow through both."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torchrl.envs.utils import check_env_specs

from worldloom_rl.keys import DONE, as_tuple
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.testing.comparing import require, require_equal, untouched
from worldloom_rl.testing.subject import BATCHES, STEPS, Data, ProbePolicy, latent_of, seeded
from worldloom_rl.world_model import WorldModel
from worldloom_rl.world_model.env import ImaginationEnv


def check_imagination(subject: WorldModel, data: Data) -> None:
    """`imagine` equals the rollout of `ImaginationEnv` bit for bit, whatever gives the actions, from any batch."""
    policy = ProbePolicy(subject)
    for batch in BATCHES:
        start = data.latents(subject, batch).set("note", torch.arange(torch.Size(batch).numel()).reshape(batch))
        flat = policy.act(subject.read_latent(data.latents(subject, (*batch, STEPS))), GeneratorNoise())
        written = subject.write_action(TensorDict({}, batch_size=(*batch, STEPS)), flat)
        for how, actor, given in (
            ("a latent policy", policy, None),
            ("a tensordict policy", TensorDictSequential(policy), None),
            ("flat actions", None, flat),
            ("an action tensordict", None, written),
        ):
            with untouched(subject, start, "imagine"), torch.no_grad():
                horizon = STEPS if given is None else None
                imagined = seeded(subject).imagine(start, actor, actions=given, horizon=horizon)
            with torch.no_grad():
                rollout = _rollout(seeded(subject), actor or _Scripted(subject, written), start)
            claim = f"imagine with {how} from a batch {batch} differs from the rollout of ImaginationEnv"
            require_equal(subject, imagined, rollout, claim, tolerance=0.0)
        at_start = subject.decode(latent_of(subject, start)).get(subject.key_map.continuation, None)
        expected = torch.ones(*batch, 1) if at_start is None else at_start
        first = imagined.get(subject.key_map.continuation).select(len(batch), 0)
        claim = "imagination does not start from decode's probability of going on (ones without a head)"
        require(torch.allclose(first, expected, rtol=1e-5, atol=1e-6), subject, f"{claim}.")
        for leaf in subject.latent_keys:
            kept = torch.equal(imagined.get(leaf).select(len(batch), 0), start.get(leaf))
            require(kept, subject, f"imagine does not keep the start's {leaf!r} bit for bit.")


def check_environment(subject: WorldModel, data: Data) -> None:
    """The specs of `ImaginationEnv` hold, and no row that ends cuts the batch."""
    for hard in (False, True):
        check_env_specs(ImaginationEnv(subject, hard_termination=hard))
    # A truncated or reset batch would be shorter, or done at the root.
    env = ImaginationEnv(subject, hard_termination=True)
    rollout = env.rollout(STEPS, tensordict=data.latents(subject, (5,)), set_state=True)
    whole = tuple(rollout.batch_size) == (5, STEPS) and not rollout.get(DONE).any()
    require(whole, subject, f"a hard termination stops imagination: the rollout is {tuple(rollout.batch_size)}.")


def check_gradients(subject: WorldModel, data: Data) -> None:
    """Gradients of predictions reach latent and weights; those of imagination equal a rollout's."""
    start = data.latents(subject, (6,)).update(data.actions((6,)))
    leaves = [key for key in subject.latent_keys if start.get(key).is_floating_point()]
    for key in leaves:
        start.get(key).requires_grad_()
    prediction = seeded(subject).predict(start.clone(False))
    arrived = [prediction.get(key) for key in leaves]
    outcomes = {
        "reward": prediction.get(subject.key_map.reward).sum(),
        # Weighted, because the entries of a softmax or a one-hot sum to a constant.
        "latent": torch.stack([(value * torch.randn_like(value)).sum() for value in arrived]).sum(),
    }
    parameters = [parameter for parameter in subject.parameters() if parameter.requires_grad]
    reached: set[NestedKey] = set()
    for what, outcome in outcomes.items():
        require(outcome.requires_grad, subject, f"the predicted {what} has no gradient.")
        sources = [*(start.get(key) for key in leaves), *parameters]
        gradients = torch.autograd.grad(outcome, sources, retain_graph=True, allow_unused=True)
        moved = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        reached |= {key for key, nonzero in zip(leaves, moved, strict=False) if nonzero}
        require(any(moved[: len(leaves)]), subject, f"no gradient of the predicted {what} reaches the start latent.")
        require(any(moved[len(leaves) :]), subject, f"no gradient of the predicted {what} reaches the weights.")
    require(reached == set(leaves), subject, f"no gradient of a prediction reaches {sorted(set(leaves) - reached)}.")

    policy = ProbePolicy(subject)
    origin = start.select(*subject.latent_keys).detach()
    found = []
    for fused in (True, False):
        td = origin.clone()
        for key in leaves:
            td.get(key).requires_grad_()
        sources = [*(td.get(key) for key in leaves), *parameters]
        seeded(subject)
        imagined = subject.imagine(td, policy, horizon=STEPS) if fused else _rollout(subject, policy, td)
        returns = imagined.get(("next", *as_tuple(subject.key_map.reward))).sum()
        found.append(torch.autograd.grad(returns, sources, allow_unused=True))
    for left, right in zip(*found, strict=True):
        same = (left is None) == (right is None)
        if left is not None and right is not None:
            same = bool((left - right).norm() <= 1e-5 * right.norm() + 1e-8)
        require(same, subject, "gradients of imagine differ from those of the rollout of ImaginationEnv.")


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
    rollout: TensorDict = env.rollout(STEPS, policy, tensordict=start.clone(False), set_state=True)
    return rollout
