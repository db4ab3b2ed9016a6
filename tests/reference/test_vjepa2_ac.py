"""V-JEPA 2-AC against numbers of the official code: every tensor of its files is an input or is compared.

All sizes and the names of the files come from what is there (see `jepa_golden`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from jepa_golden import close, files, metadata
from safetensors.torch import load_file
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl import ReplayNoise, WorldModel
from worldloom_rl.models.vjepa2 import VJEPA2ACConfig, VJEPA2ACPredictor, make_planner, next_pose, pose_difference
from worldloom_rl.models.vjepa2.pose import euler_angles, rotation_matrix
from worldloom_rl.models.vjepa2.predictor import Block, ac_terms, normalise_tokens
from worldloom_rl.noise import Noise
from worldloom_rl.world_model import Latent, Observation, Prediction

FORWARD = {"atol": 2e-5}
LOSS = {"atol": 1e-5}
GRADIENT = 1e-4  # |Δ| / |golden|, of the whole tensor
POSE = {"atol": 1e-5}


class Golden:
    """One predictor file: its tensors and what its metadata says of the official module."""

    def __init__(self, path: Path) -> None:
        self.tensors = load_file(path)
        said = metadata(path)
        self.config: dict[str, Any] = json.loads(said["config"])
        self.frames = int(said["T"])

    def of(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): x for name, x in self.tensors.items() if name.startswith(prefix)}

    @property
    def grid(self) -> tuple[int, int]:
        height, width = self.config["img_size"]
        return height // self.config["patch_size"], width // self.config["patch_size"]

    def predictor(self) -> VJEPA2ACPredictor:
        assert self.config["use_rope"]
        assert self.config["is_frame_causal"]
        predictor = VJEPA2ACPredictor(
            token_dim=self.config["embed_dim"],
            dim=self.config["predictor_embed_dim"],
            depth=self.config["depth"],
            heads=self.config["num_heads"],
            action_dim=self.config["action_embed_dim"],
            grid=self.grid,
            hidden=len(self.tensors["params/predictor_blocks.0.mlp.fc1.bias"]),
            use_extrinsics=self.config["use_extrinsics"],
        )
        predictor.load_state_dict(self.of("params/"), strict=True)
        return predictor

    def inputs(self, frames: int) -> list[Tensor]:
        """Tokens, actions, poses and, where they are used, extrinsics of the first frames."""
        given = self.of("in/")
        tokens = given["tokens"].unflatten(1, (self.frames, -1))
        others = [given[name] for name in ("actions", "states", "extrinsics") if name in given]
        return [x[:, :frames] for x in (tokens, *others)]


@functools.cache
def golden(path: Path) -> Golden:
    return Golden(path)


@pytest.fixture(params=files("vjepa2_ac_predictor"), ids=lambda path: path.stem)
def file(request: pytest.FixtureRequest) -> Golden:
    return golden(request.param)


def test_every_tensor_of_the_files_is_an_input_or_is_compared(file: Golden) -> None:
    known = re.compile(
        r"params/.+|in/(tokens|actions|states|extrinsics)|out/(forward_T\d+|attn_mask_T\d+)"
        r"|loss/auto\d+/(z_tf|z_ar|teacher_forcing|rollout|total|grad/.+)"
    )
    assert [name for name in file.tensors if not known.fullmatch(name)] == []


def test_predictions_are_the_official_ones(file: Golden) -> None:
    predictor = file.predictor()
    expected = file.of("out/forward_T")
    assert len(expected) == file.frames
    for frames, value in expected.items():
        found = predictor(*file.inputs(int(frames)))
        close(found.flatten(1, 2), value, **FORWARD)


def test_mask_is_the_official_one(file: Golden) -> None:
    expected = file.of("out/attn_mask_T")
    assert expected
    for frames, mask in expected.items():
        torch.testing.assert_close(file.predictor().mask(int(frames)), mask)


def test_losses_and_gradients_are_the_official_ones(file: Golden) -> None:
    sections = {name.split("/")[1] for name in file.tensors if name.startswith("loss/")}
    assert sections
    for section in sections:
        expected = file.of(f"loss/{section}/")
        predictor = file.predictor()
        tokens, actions, *others = file.inputs(file.frames)
        steps = int(section.removeprefix("auto"))
        terms = ac_terms(predictor, normalise_tokens(tokens), actions[:, :-1], *others, rollout_steps=steps)
        teacher_forcing, rollout = terms.teacher_forcing_loss.mean(), terms.rollout_loss.mean()
        total = teacher_forcing + rollout
        close(terms.teacher_forced.flatten(1, 2), expected["z_tf"], **FORWARD)
        close(terms.rolled_out.flatten(1, 2), expected["z_ar"], **FORWARD)
        close(teacher_forcing, expected["teacher_forcing"], **LOSS)
        close(rollout, expected["rollout"], **LOSS)
        close(total, expected["total"], **LOSS)
        total.backward()
        weights = dict(predictor.named_parameters())
        gradients = {name.removeprefix("grad/"): x for name, x in expected.items() if name.startswith("grad/")}
        assert gradients
        for name, gradient in gradients.items():
            gap = (weights[name].grad - gradient).norm() / gradient.norm()
            assert gap < GRADIENT, f"{section} {name}: {gap:.1e}"


def test_a_prediction_depends_on_nothing_later_and_on_all_that_came_before(file: Golden) -> None:
    predictor = file.predictor()
    inputs = file.inputs(file.frames)
    with torch.no_grad():
        before = predictor(*inputs)
        for changed in range(len(inputs)):
            for t in range(file.frames):
                other = [x.clone() for x in inputs]
                other[changed][:, t] += 1.0
                after = predictor(*other)
                torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0.0, atol=1e-6)
                moved = (after[:, t:] - before[:, t:]).abs().amax((0, 2, 3))
                assert bool((moved > 1e-3).all()), f"input {changed} at frame {t}: {moved.tolist()}"


def test_a_call_on_the_first_frames_is_a_slice_of_the_whole(file: Golden) -> None:
    predictor = file.predictor()
    with torch.no_grad():
        whole = predictor(*file.inputs(file.frames))
        for frames in range(1, file.frames):
            torch.testing.assert_close(predictor(*file.inputs(frames)), whole[:, :frames], rtol=0.0, atol=5e-6)


def test_a_grid_that_is_not_square_scales_its_columns_to_the_rows() -> None:
    predictor = VJEPA2ACPredictor(token_dim=8, dim=16, depth=1, heads=2, grid=(2, 4))
    tokens = predictor.positions(2)[10:]  # the second frame
    assert tokens[:, 0].unique().tolist() == [1.0]
    assert tokens[:2, 1:].tolist() == [[0.0, 0.0]] * 2  # action and pose
    assert tokens[2:, 1:].tolist() == [[r, c] for r in (0.0, 1.0) for c in (0.0, 0.5, 1.0, 1.5)]
    assert predictor(torch.randn(3, 2, 8, 8), torch.randn(3, 2, 7), torch.randn(3, 2, 7)).shape == (3, 2, 8, 8)


def test_released_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        predictor = VJEPA2ACPredictor(token_dim=1408, dim=1024, depth=24, heads=16, grid=(16, 16))
    parameters = list(predictor.parameters())
    assert len(parameters) == len(predictor.state_dict()) == 300
    assert round(sum(x.numel() for x in parameters) / 1e6, 1) == 305.2


def test_initial_weights_shrink_with_the_depth() -> None:
    torch.manual_seed(0)
    predictor = VJEPA2ACPredictor(token_dim=64, dim=128, depth=3, heads=2, grid=(2, 2), use_extrinsics=True)
    assert predictor.predictor_embed.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for layer, block in enumerate(predictor.predictor_blocks, 1):
        assert isinstance(block, Block)
        assert block.attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
        for last in (block.attn.proj, block.mlp.fc2):
            assert last.weight.std().item() == pytest.approx(0.02 / (2 * layer) ** 0.5, rel=0.05)
    assert not any(module.bias.any() for module in predictor.modules() if isinstance(module, torch.nn.Linear))


def test_wrong_inputs_are_named() -> None:
    predictor = VJEPA2ACPredictor(token_dim=8, dim=16, depth=1, heads=2, grid=(2, 2))
    tokens, actions = torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 7)
    with pytest.raises(ValueError, match="2 x 2 tokens here, but 3"):
        predictor(tokens[:, :, :3], actions, actions)
    with pytest.raises(ValueError, match="use_extrinsics=False, but they were given"):
        predictor(tokens, actions, actions, actions[..., :6])
    with pytest.raises(ValueError, match="A rollout of 2 steps needs 1 to 1"):
        ac_terms(predictor, tokens, actions[:, :1], actions)
    with pytest.raises(ValueError, match="at least 6"):
        VJEPA2ACPredictor(token_dim=8, dim=8, depth=1, heads=2, grid=(2, 2))(tokens, actions, actions)


# ------------------------------------------------------------------ poses


def test_poses_are_the_official_ones() -> None:
    (path,) = files("vjepa2_ac_cem")
    tensors = load_file(path)
    found = next_pose(tensors["pose/in_pose"], tensors["pose/in_action"])
    close(found, tensors["pose/out"], **POSE)


def test_pose_difference_is_the_action_between_two_poses() -> None:
    torch.manual_seed(0)
    pose, action = torch.randn(100, 7), torch.randn(100, 7)
    pose[:, 6], action[:, 6] = 0.5, action[:, 6].clamp(-0.4, 0.4)
    arrived = next_pose(pose, action)
    again = next_pose(pose, pose_difference(pose, arrived))
    torch.testing.assert_close(rotation_matrix(again[:, 3:6]), rotation_matrix(arrived[:, 3:6]), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(again[:, [0, 1, 2, 6]], arrived[:, [0, 1, 2, 6]], rtol=0.0, atol=1e-6)


def test_euler_angles_turn_about_the_fixed_axes_in_the_order_x_y_z() -> None:
    quarter = torch.pi / 2
    turned = rotation_matrix(torch.tensor([quarter, 0.0, quarter])) @ torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(turned, torch.tensor([0.0, 0.0, 1.0]))  # y → z about x, and z stays about z
    angles = torch.tensor([[0.3, -1.2, 2.5], [-3.0, 1.5, 0.1]])
    torch.testing.assert_close(euler_angles(rotation_matrix(angles)), angles, rtol=0.0, atol=1e-5)


def test_poses_have_finite_gradients_also_where_euler_angles_are_ambiguous() -> None:
    pose = torch.tensor([0.0, 0.0, 0.0, 0.2, torch.pi / 2, 0.1, 0.5], requires_grad=True)
    next_pose(pose, torch.zeros(7)).sum().backward()
    assert pose.grad is not None
    assert bool(pose.grad.isfinite().all())


# ------------------------------------------------------------------ the planner


class Toy(WorldModel):
    """The model that the planner's file names: next = frame + g tanh(k a W + pose U), poses as `next_pose`."""

    model_type = "toy"
    config: VJEPA2ACConfig

    def __init__(
        self, config: VJEPA2ACConfig, tensors: dict[str, Tensor], gains: tuple[float, float], reach: float
    ) -> None:
        # Bounds unlike each other and off centre, as an environment may have them, around what is planned.
        low, high = torch.tensor([-4.0, -2, -1, -3, -3, -3, -1.4]), torch.tensor([2.0, 2, 2, 3, 2, 3, 1.1])
        for bound in (low, high):
            bound[:3] *= reach
            bound[6] *= config.max_gripper
        super().__init__(config, Composite(pixels=Unbounded((1,))), Composite(action=Bounded(low, high)))
        self.config = config
        frame = Unbounded(tensors["in/goal"].shape[2:])
        self.latent_spec = Composite(tokens=frame, goal=frame.clone(), proprio=Unbounded((7,)))
        self.w, self.u, self.gains, self.reach = tensors["in/W"], tensors["in/U"], gains, reach

    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        motion = self.action_space.unflatten(action)["action"]
        assert torch.allclose(motion, action * self.action_space.half_range + self.action_space.center, atol=1e-6)
        outer, inner = self.gains
        change = outer * torch.tanh(inner * motion @ self.w + latent["proprio"] @ self.u)
        arrived = {**latent, "tokens": latent["tokens"] + change.unsqueeze(-2)}
        arrived["proprio"] = next_pose(latent["proprio"], motion)
        nothing = motion.new_zeros(*motion.shape[:-1], 1)
        return Prediction(arrived, nothing, nothing + 1)

    def encode_latent(self, observation: Observation, noise: Noise) -> Latent:
        raise NotImplementedError

    def filter_latent(self, *_: Any) -> Latent:
        raise NotImplementedError

    def latent_features(self, latent: Latent) -> Tensor:
        raise NotImplementedError

    def discount(self, latent: Latent) -> Tensor:
        return latent["tokens"].new_ones(1)

    def compute_loss(self, batch: Any, noise: Noise | None = None) -> Any:
        raise NotImplementedError

    @staticmethod
    def default_specs() -> Any:
        raise NotImplementedError


@pytest.fixture(scope="module")
def toy() -> tuple[Toy, dict[str, Tensor]]:
    (path,) = files("vjepa2_ac_cem")
    tensors, said = load_file(path), metadata(path)
    formula = r"next = frame \+ ([\d.]+)\*tanh\(([\d.]+)\*a@W \+ pose@U\); pose' = compute_new_pose"
    ((outer, inner),) = re.findall(formula, said["toy_model"])
    config = VJEPA2ACConfig(
        horizon=int(said["rollout"]),
        iterations=int(said["cem_steps"]),
        num_samples=int(said["samples"]),
        num_elites=int(said["topk"]),
        max_translation=float(said["maxnorm"]),
        max_gripper=float(said["gripper_clip"]),
        **{f"momentum_{name}": float(said[f"momentum_{name}"]) for name in MOMENTA},
    )
    return Toy(config, tensors, (float(outer), float(inner)), config.max_translation), tensors


MOMENTA = ("mean", "std", "mean_gripper", "std_gripper")


def planning_inputs(tensors: dict[str, Tensor]) -> tuple[Latent, ReplayNoise]:
    latent = {
        "tokens": tensors["in/context"].squeeze(1),
        "goal": tensors["in/goal"].squeeze(1),
        "proprio": tensors["in/pose"].squeeze(1),
    }
    drawn = tensors["in/noise"]  # [iterations, H, N, 4]: translations and gripper
    whole = torch.cat([drawn[..., :3], torch.ones_like(drawn[..., :3]), drawn[..., 3:]], -1)
    return latent, ReplayNoise({"sample": list(whole.unsqueeze(2))})


def test_plans_are_the_official_ones(toy: tuple[Toy, dict[str, Tensor]]) -> None:
    model, tensors = toy
    planner = make_planner(model, execute=model.config.horizon)
    latent, noise = planning_inputs(tensors)
    fresh = planner.init_mean.expand(1, model.config.horizon, 7)
    plan = planner.plan(latent, fresh, noise, explore=False)
    assert noise.unused() == {}
    space = model.action_space
    close(plan.sequence * space.half_range + space.center, tensors["out/action"], **POSE)
    first = make_planner(model).plan(latent, fresh, planning_inputs(tensors)[1], explore=False)
    torch.testing.assert_close(first.action, plan.sequence[:, 0])


def test_small_gripper_motions_are_none(toy: tuple[Toy, dict[str, Tensor]]) -> None:
    model, tensors = toy
    space = model.action_space
    for threshold, small in ((0.0, False), (model.config.max_gripper + 0.01, True)):
        other = Toy(dataclasses.replace(model.config, min_gripper=threshold), tensors, model.gains, model.reach)
        planner = make_planner(other, execute=model.config.horizon)
        latent, noise = planning_inputs(tensors)
        plan = planner.plan(latent, planner.init_mean.expand(1, model.config.horizon, 7), noise, explore=False)
        gripper = (plan.sequence * space.half_range + space.center)[..., 6]
        assert bool((gripper.abs() < 1e-6).all()) == small


def test_a_planner_refuses_an_action_spec_that_it_would_leave(toy: tuple[Toy, dict[str, Tensor]]) -> None:
    model, tensors = toy
    far = Toy(dataclasses.replace(model.config, max_translation=4 * model.reach), tensors, model.gains, model.reach)
    with pytest.raises(ValueError, match="lower max_translation"):
        make_planner(far)


def test_every_tensor_of_the_planner_file_is_an_input_or_is_compared(toy: tuple[Toy, dict[str, Tensor]]) -> None:
    known = re.compile(r"in/(U|W|context|goal|noise|pose)|out/action|pose/(in_pose|in_action|out)")
    assert [name for name in toy[1] if not known.fullmatch(name)] == []
