"""`check_world_model` passes a correct recurrent model and names what is wrong with broken ones."""

from __future__ import annotations

import pytest
import torch
from recurrent_model import Recurrent, RecurrentConfig
from torch import nn

from worldloom_rl.pretrained import registry
from worldloom_rl.testing import check_world_model
from worldloom_rl.world_model import Prediction


class IgnoresReset(Recurrent):
    def filter_latent(self, previous, previous_action, observation, is_init, noise):
        return super().filter_latent(previous, previous_action, observation, torch.zeros_like(is_init), noise)


class ForgetsToDropTheActionAtReset(Recurrent):
    def filter_latent(self, previous, previous_action, observation, is_init, noise):
        kept = (~is_init).float()
        memory, state = previous["deterministic"] * kept, previous["stochastic"] * kept.unsqueeze(-1)
        memory = self.remember(memory, state, previous_action)
        logits = self.posterior(torch.cat([memory, observation["position"]], -1))
        return self.latent(memory, self.state.sample(logits, noise), observation["goal"])


class ResetsTheWholeBatch(Recurrent):
    def filter_latent(self, previous, previous_action, observation, is_init, noise):
        everywhere = torch.full_like(is_init, bool(is_init.any()))
        return super().filter_latent(previous, previous_action, observation, everywhere, noise)


class ShiftsTheCarry(Recurrent):
    def observe_sequence(self, carry, previous_action, observation, is_init, noise):
        time, older = is_init.dim() - 2, carry
        latents = []
        for t in range(is_init.shape[time]):
            row = {key: value.select(time, t) for key, value in observation.items()}
            latent = self.filter_latent(older, previous_action.select(time, t), row, is_init.select(time, t), noise)
            older, carry = carry, latent
            latents.append(latent)
        return {name: torch.stack([latent[name] for latent in latents], time) for name in carry}


class StartsSequencesAtZero(Recurrent):
    def observe_sequence(self, carry, previous_action, observation, is_init, noise):
        empty = {name: torch.zeros_like(value) for name, value in carry.items()}
        return super().observe_sequence(empty, previous_action, observation, is_init, noise)


class DrawsBySequence(Recurrent):
    def observe_sequence(self, carry, previous_action, observation, is_init, noise):
        noise.uniform("stochastic", is_init.shape, previous_action)
        return super().observe_sequence(carry, previous_action, observation, is_init, noise)


class HasNoMemory(Recurrent):
    def filter_latent(self, previous, previous_action, observation, is_init, noise):
        return super().filter_latent(previous, previous_action, observation, torch.ones_like(is_init), noise)


class PredictsWithoutAction(Recurrent):
    def predict_latent(self, latent, action, noise):
        return super().predict_latent(latent, torch.zeros_like(action), noise)


class PredictsWithoutGrip(Recurrent):
    def predict_latent(self, latent, action, noise):
        return super().predict_latent(
            latent, torch.cat([action[..., :2], torch.zeros_like(action[..., 2:])], -1), noise
        )


class PredictsLogits(Recurrent):
    def predict_latent(self, latent, action, noise):
        prediction = super().predict_latent(latent, action, noise)
        return prediction._replace(continuation=prediction.continuation.logit() * 10)


class LosesTheContext(Recurrent):
    def predict_latent(self, latent, action, noise):
        arrived, reward, continuation = super().predict_latent(latent, action, noise)
        return Prediction({**arrived, "goal": 0.9 * arrived["goal"]}, reward, continuation)


class DecodesAnotherContinuation(Recurrent):
    def decode_latent(self, latent):
        decoded = super().decode_latent(latent)
        return {**decoded, self.key_map.continuation: decoded[self.key_map.continuation].square()}


class ImaginesFromOnes(Recurrent):
    def continuation(self, latent):
        return torch.ones_like(super().continuation(latent))


class ImaginesAnotherReward(Recurrent):
    def imagine(self, start, policy=None, **settings):
        imagined = super().imagine(start, policy, **settings)
        return imagined.set(("next", self.key_map.reward), imagined["next", self.key_map.reward].roll(1, -2))


class WritesAFixedKey(Recurrent):
    def decode_latent(self, latent):
        decoded = super().decode_latent(latent)
        return {"reward" if key == self.key_map.reward else key: value for key, value in decoded.items()}


class DetachesThePosterior(Recurrent):
    def compute_loss(self, batch, noise=None):
        terms, posterior = super().compute_loss(batch, noise)
        return terms, posterior.detach()


class FillsMissingRewards(Recurrent):
    def compute_loss(self, batch, noise=None):
        if self.key_map.reward not in batch.keys(True):
            batch = batch.copy().set(self.key_map.reward, torch.zeros(*batch.batch_size, 1))
        return super().compute_loss(batch, noise)


class CutsTheGradient(Recurrent):
    def predict_latent(self, latent, action, noise):
        return super().predict_latent({name: value.detach() for name, value in latent.items()}, action, noise)


class DrawsGlobally(Recurrent):
    def predict_latent(self, latent, action, noise):
        arrived, reward, continuation = super().predict_latent(latent, action, noise)
        return Prediction(arrived, reward + 1e-3 * torch.randn_like(reward), continuation)


class ChangesItsInput(Recurrent):
    def filter_latent(self, previous, previous_action, observation, is_init, noise):
        previous["deterministic"].mul_(0.5)
        return super().filter_latent(previous, previous_action, observation, is_init, noise)


class ComputesInDouble(Recurrent):
    def predict_latent(self, latent, action, noise):
        prediction = super().predict_latent(latent, action, noise)
        return prediction._replace(reward=prediction.reward.double())


class LeavesAWeightUntrained(Recurrent):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.unused = nn.Linear(2, 2)


class TakesMemoryOnMeta(Recurrent):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.register_buffer("table", torch.zeros(2, device="cpu"))


class IsRegisteredByAnother(Recurrent):
    pass


BROKEN = {
    IgnoresReset: "is_init inside a sequence does not reset it",
    ForgetsToDropTheActionAtReset: "is_init inside a sequence does not reset it",
    ResetsTheWholeBatch: "a reset of one row of the batch does not reset that row alone",
    ShiftsTheCarry: "observe over a sequence .* differs from its single steps",
    StartsSequencesAtZero: "observe over a sequence .* differs from its single steps",
    DrawsBySequence: "observe over a sequence .* differs from its single steps",
    HasNoMemory: "observe ignores the carried latent",
    PredictsWithoutAction: "predict ignores the action 'force'",
    PredictsWithoutGrip: r"predict ignores the action \('grip', 'mode'\)",
    PredictsLogits: "'continue' is a probability",
    LosesTheContext: "predict changes the context leaf 'goal'",
    DecodesAnotherContinuation: "decode and predict disagree on 'continue'",
    ImaginesFromOnes: "imagination does not start from decode's probability",
    ImaginesAnotherReward: "imagine with a latent policy .* differs from the rollout",
    WritesAFixedKey: "decode with renamed keys",
    DetachesThePosterior: "the posterior of compute_loss is detached",
    FillsMissingRewards: "compute_loss does not miss 'reward'",
    CutsTheGradient: "no gradient of the predicted reward reaches the start latent",
    DrawsGlobally: "predict .* under the same noise",
    ChangesItsInput: "observe changed its input .* in place",
    ComputesInDouble: "predict writes 'reward' as torch.float64",
    LeavesAWeightUntrained: "compute_loss gives the weight 'unused.weight' no finite gradient",
    TakesMemoryOnMeta: "'table' takes memory on cpu",
    IsRegisteredByAnother: "would be loaded as another class",
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    family = registry.Family(
        "recurrent-for-tests", RecurrentConfig, {"tiny": RecurrentConfig()}, "recurrent_model:Recurrent", Recurrent
    )
    monkeypatch.setitem(registry._families, family.name, family)


def build(model_class: type[Recurrent]) -> Recurrent:
    torch.manual_seed(0)
    return model_class(RecurrentConfig(), *Recurrent.default_specs())


def test_a_correct_recurrent_model_passes() -> None:
    check_world_model(build(Recurrent))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_correct_recurrent_model_passes_with_other_data(seed: int) -> None:
    model = build(Recurrent)
    check_world_model(model, observation=model.observation_spec.rand(torch.Size([7])), seed=seed)


@pytest.mark.parametrize("model_class", BROKEN, ids=lambda model_class: model_class.__name__)
def test_a_broken_recurrent_model_is_caught(model_class: type[Recurrent]) -> None:
    with pytest.raises(AssertionError, match=BROKEN[model_class]):
        check_world_model(build(model_class))


def test_the_check_leaves_model_and_global_generator_as_they_are() -> None:
    model = build(Recurrent)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    noise, state, threads = model.noise, torch.get_rng_state(), torch.get_num_threads()
    check_world_model(model)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert model.noise is noise
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
