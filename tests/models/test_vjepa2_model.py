"""V-JEPA 2-AC as a world model: what acting, imagining and learning make of its encoder and predictor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Composite, OneHot, Unbounded
from torchrl.modules import set_recurrent_mode

from worldloom_rl import AutoWorldModel
from worldloom_rl.models.vjepa2 import VJEPA2AC, VJEPA2Encoder, make_policy, next_pose
from worldloom_rl.models.vjepa2.config import PRESETS
from worldloom_rl.models.vjepa2.predictor import ac_terms, normalise_tokens
from worldloom_rl.testing import check_world_model

pytest.importorskip("transformers")

TINY = PRESETS["tiny"]
SPECS = Composite(pixels=Unbounded((3, 32, 32), dtype=torch.uint8), proprio=Unbounded((7,)))
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def build(history: int = 3, context: int = 2, *, use_extrinsics: bool = False) -> VJEPA2AC:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, history=history, context=context, use_extrinsics=use_extrinsics)
    spec = SPECS.clone()
    if use_extrinsics:
        spec["extrinsics"] = Unbounded((6,))
    model = VJEPA2AC(config, spec, VJEPA2AC.default_specs()[1])
    with torch.no_grad():
        for parameter in model.predictor.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def rows(model: VJEPA2AC, batch: int, time: int) -> TensorDict:
    rows = model.observation_spec.rand((batch, time)).to_tensordict()
    rows.batch_size = [batch, time]
    rows["previous_action"] = model.action_spec.rand((batch, time))["action"]
    rows["is_init"] = torch.zeros(batch, time, 1, dtype=torch.bool)
    rows["is_init"][:, 0] = True
    return rows


def test_released_model_has_the_sizes_of_the_vit_giant() -> None:
    with torch.device("meta"):
        model = VJEPA2AC(PRESETS["ac-vitg"], *VJEPA2AC.default_specs())
    assert model.latent_spec["tokens"].shape == (256, 1408)
    assert round(model.num_parameters() / 1e6, 1) == 305.2  # the predictor; its unused camera layer is 7e3 of them
    # Tubelets, 40 blocks and the last norm, written out by hand.
    block = 4 * 1408 * 1408 + 4 * 1408 + 2 * 1408 * 6144 + 6144 + 1408 + 4 * 1408
    count = sum(x.numel() for x in model.encoder.encoder.parameters())
    assert count == 1408 * (3 * 2 * 16 * 16 + 1) + 40 * block + 2 * 1408
    assert not any(x.requires_grad for x in model.encoder.parameters())
    assert not model.train().encoder.training


def test_predictions_are_the_predictor_on_the_growing_sequence() -> None:
    """Imagination in a window of fixed size against frames, actions and poses collected one after the other."""
    model = build()
    start = rows(model, 4, 1)[:, 0]
    flat = torch.rand(4, 5, 7) * 2 - 1
    with torch.no_grad():
        encoded = model.encode(start)
        imagined = model.imagine(encoded.select("latent"), actions=flat)
        tokens, poses = [encoded["latent", "tokens"]], [start["proprio"]]
        limits = VJEPA2AC.default_specs()[1]["action"].space.high
        for t in range(5):
            first = max(0, t + 1 - model.config.history)
            inputs = [torch.stack(values, 1)[:, first:] for values in (tokens, poses)]
            predicted = model.predictor(inputs[0], (flat * limits)[:, first : t + 1], inputs[1])
            tokens.append(normalise_tokens(predicted)[:, -1])
            poses.append(next_pose(poses[-1], flat[:, t] * limits))
            torch.testing.assert_close(imagined["next", "latent", "tokens"][:, t], tokens[-1], **CLOSE)
            torch.testing.assert_close(imagined["next", "latent", "proprio"][:, t], poses[-1], **CLOSE)
            distance = (tokens[-1] - encoded["latent", "goal"]).abs().mean((-2, -1)).unsqueeze(-1)
            torch.testing.assert_close(imagined["next", "reward"][:, t], -distance, **CLOSE)
        other = model.imagine(encoded.select("latent"), actions=flat.flip(0))
        moved = (other["next", "latent", "tokens"] - imagined["next", "latent", "tokens"]).abs().amax((2, 3))
        assert bool((moved > 1e-4).all())


@pytest.mark.parametrize(("context", "use_extrinsics"), [(1, False), (2, True), (3, False)])
def test_what_is_observed_is_what_the_next_prediction_sees(context: int, use_extrinsics: bool) -> None:
    model = build(context=context, use_extrinsics=use_extrinsics)
    batch = rows(model, 2, 5)
    batch["is_init"][1, 3] = True
    with torch.no_grad():
        carry = model.write_latent(batch.clone(), {
            name: x.unsqueeze(1).expand(-1, 5, *x.shape[1:]).clone() for name, x in model.initial_latent((2,)).items()
        })  # fmt: skip
        with set_recurrent_mode(True):
            observed = model.observe(carry)["latent"]
        _, posterior = model.compute_loss(batch)
        action = torch.rand(2, 5, 7) * 2 - 1
        predicted = model.predict_latent(dict(observed.items()), action, model.noise).latent["tokens"]
        embedded = model.embed(batch["pixels"])
        limits = model.action_space.half_range
        for row, begin in ((0, 0), (1, 3)):
            for t in range(begin, 5):
                first = max(begin, t + 1 - context)
                assert observed["length"][row, t] == t + 1 - first
                actions = torch.cat([batch["previous_action"][row, first + 1 : t + 1], action[row, t : t + 1] * limits])
                inputs = [embedded[row, first : t + 1], actions, batch["proprio"][row, first : t + 1]]
                if use_extrinsics:  # one camera an episode: the newest row's counts for the whole window
                    inputs.append(batch["extrinsics"][row, t].expand(len(actions), -1))
                expected = normalise_tokens(model.predictor(*(x.unsqueeze(0) for x in inputs)))[0, -1]
                torch.testing.assert_close(predicted[row, t], expected, **CLOSE)
                torch.testing.assert_close(observed["goal"][row, t], model.embed(batch["goal", "pixels"][row, begin]))
    for name in ("tokens", "length", "proprio"):
        torch.testing.assert_close(posterior["latent", name], observed[name])
    # In windows the posterior knows the action that leaves a row already; it is overwritten by the one taken.
    again = model.predict_latent({**dict(posterior["latent"].items()), "goal": observed["goal"]}, action, model.noise)
    torch.testing.assert_close(again.latent["tokens"], predicted, **CLOSE)


def test_loss_is_that_of_the_predictor_up_to_the_next_episode() -> None:
    model = build()
    batch = rows(model, 2, 5)
    batch["is_init"][1, 2] = True
    terms, posterior = model.compute_loss(batch.exclude("goal"))
    expected = ac_terms(
        model.predictor, model.embed(batch["pixels"]), batch["previous_action"][:, 1:], batch["proprio"]
    )
    # Row 0 counts whole, row 1 up to its second frame: 4 + 1 of 8 teacher-forced and 2 + 1 of 4 rolled-out errors.
    teacher_forcing = torch.cat([expected.teacher_forcing_loss[0], expected.teacher_forcing_loss[1, :1]])
    rollout = torch.cat([expected.rollout_loss[0], expected.rollout_loss[1, :1]])
    torch.testing.assert_close(terms["teacher_forcing"].mean(), teacher_forcing.mean())
    torch.testing.assert_close(terms["rollout"].mean(), rollout.mean())
    assert terms["teacher_forcing"].shape == (2, 4)
    assert terms["rollout"].shape == (2, 2)
    assert terms["teacher_forcing"][1, 1:].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(posterior["latent", "goal"][:, 0], posterior["latent", "tokens"][:, -1])


def test_policy_acts_in_an_environment_of_its_own_imagination_and_keeps_its_goal() -> None:
    model = build(context=1).eval()
    policy = make_policy(model)
    td = rows(model, 2, 1)[:, 0]
    td["planner", "mean"] = torch.zeros(2, model.config.horizon, 7)
    model.write_latent(td, model.initial_latent((2,)))
    acted = policy(td)
    limits = torch.tensor([0.05] * 3 + [0.0] * 3 + [0.75])
    assert bool((acted["action"].abs() <= limits + 1e-6).all())
    assert bool(acted["action"][:, :3].abs().sum() > 0)
    later = acted.clone().update(rows(model, 2, 1)[:, 0])
    later["is_init"].fill_(False)
    torch.testing.assert_close(policy(later)["latent", "goal"], acted["latent", "goal"])


def test_images_of_another_size_are_resized() -> None:
    model = build()
    large = VJEPA2AC(TINY, *VJEPA2AC.default_specs())
    large.load_state_dict(model.state_dict())
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    doubled = image.repeat_interleave(8, -1).repeat_interleave(8, -2)
    # Halving with antialiasing mixes neighbouring squares, so only smooth images survive it unchanged.
    flat = torch.full_like(doubled, 90)
    torch.testing.assert_close(large.embed(flat), model.embed(torch.full_like(image, 90)), **CLOSE)
    assert large.embed(doubled).shape == (2, 16, 32)


def test_encoder_weights_come_from_another_encoder_of_the_size(tmp_path: Path) -> None:
    model = build()
    other = VJEPA2Encoder(TINY.transformers_config())
    model.encoder.load_state_dict(other.state_dict())
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(model.embed(image), other.eval()(image).detach())
    model.save_pretrained(tmp_path / "model")
    torch.testing.assert_close(AutoWorldModel.from_pretrained(tmp_path / "model").embed(image), model.embed(image))


def test_model_with_a_camera_keeps_the_contract() -> None:
    check_world_model(build(use_extrinsics=True))


@pytest.mark.parametrize(
    ("observation", "action", "match"),
    [
        (Composite(pixels=Unbounded((3, 32, 32))), None, r"one real vector \[7\]"),
        (Composite(pixels=Unbounded((3, 32, 64)), proprio=Unbounded((7,))), None, "square RGB image"),
        (Composite(pixels=Unbounded((3, 32, 32)), proprio=Unbounded((6,))), None, r"\(6,\)"),
        (SPECS, OneHot(7), "7 real numbers"),
        (SPECS, Bounded(-1.0, 1.0, shape=(4,)), "of 4 numbers"),
    ],
)
def test_specs_that_do_not_fit_are_named(observation: Composite, action: Bounded | None, match: str) -> None:
    action_spec = VJEPA2AC.default_specs()[1] if action is None else Composite(action=action)
    with pytest.raises(ValueError, match=match):
        VJEPA2AC(TINY, observation, action_spec)


def test_goals_that_are_not_images_are_left_alone() -> None:
    spec = SPECS.clone()
    spec["goal"] = SPECS.clone()
    model = VJEPA2AC(TINY, spec, VJEPA2AC.default_specs()[1])
    assert set(model.observation_keys) == {"pixels", "proprio", ("goal", "pixels")}


@pytest.mark.parametrize(
    "change", [{"image_size": 33}, {"encoder_heads": 3}, {"encoder_heads": 8}, {"context": 4}, {"num_elites": 65}]
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change)).split("_")[0]):
        dataclasses.replace(TINY, **change)
