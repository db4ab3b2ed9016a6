"""The JEPA model against numbers of LeWM's reference code: every tensor of the golden file is an input or is compared.

Sizes and the regularizer's weight come from the file's metadata; files in $WORLDLOOM_REFERENCE_DIR/jepa take the place
of tests/reference/data/jepa. Tolerances: outputs 2e-5, losses 1e-5, batch norm buffers 1e-6, rollouts and costs
1e-4 relative, gradients 1e-4 of the largest entry.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl import ReplayNoise, WorldModelLoss
from worldloom_rl.functional.goal_reward import GoalReward
from worldloom_rl.models.jepa import JEPA, JEPAConfig
from worldloom_rl.world_model import Latent
from worldloom_rl.world_model.env import ImaginationEnv

ROOT = Path(os.environ.get("WORLDLOOM_REFERENCE_DIR", Path(__file__).parent / "data")) / "jepa"
FILE = ROOT / "lewm_tiny.safetensors"
GOLDEN = load_file(FILE)
with safe_open(FILE, framework="pt") as content:
    METADATA = content.metadata()
SIZES = json.loads(METADATA["config"])
COEFFICIENT = float(METADATA["sigreg_weight"])
PARAMETERS = {name.removeprefix("params/"): x for name, x in GOLDEN.items() if name.startswith("params/")}
used: set[str] = set()


def golden(name: str) -> Tensor:
    used.add(name)
    return GOLDEN[name].clone()


def below(prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): golden(name) for name in GOLDEN if name.startswith(prefix)}


def close(found: Tensor, expected: Tensor, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


# ------------------------------------------------------------------ the reference's names


RENAMED = (  # in this order
    ("encoder.embeddings.patch_embeddings.projection.", "encoder.images.0.network.patches."),
    ("encoder.embeddings.cls_token", "encoder.images.0.network.class_token"),
    ("encoder.embeddings.position_embeddings", "encoder.images.0.network.position"),
    ("encoder.layernorm.", "encoder.images.0.network.norm."),
    ("encoder.layers.", "encoder.images.0.network.blocks."),
    (".attention.o_proj.", ".attention.output."),
    (".layernorm_before.", ".attention_norm."),
    (".layernorm_after.", ".feed_forward_norm."),
    (".mlp.fc1.", ".feed_forward.expand."),
    (".mlp.fc2.", ".feed_forward.contract."),
    ("pred_proj.net.", "prediction_projector.net."),
    ("projector.net.0.", "projector.expand."),
    ("projector.net.1.", "projector.norm."),
    ("projector.net.3.", "projector.contract."),
    ("action_encoder.patch_embed.", "action_encoder.filters."),
    ("action_encoder.embed.0.", "action_encoder.expand."),
    ("action_encoder.embed.2.", "action_encoder.contract."),
    ("predictor.pos_embedding", "predictor.position"),
    ("predictor.transformer.layers.", "predictor.blocks."),
    ("predictor.transformer.norm.", "predictor.norm."),
    (".adaLN_modulation.1.", ".modulation."),
    (".attn.norm.", ".attention_norm."),
    (".attn.to_qkv.", ".attention.query_key_value."),
    (".attn.to_out.0.", ".attention.output."),
    (".mlp.net.0.", ".feed_forward_norm."),
    (".mlp.net.1.", ".feed_forward.expand."),
    (".mlp.net.4.", ".feed_forward.contract."),
)
THIRDS = (".attention.q_proj.", ".attention.k_proj.", ".attention.v_proj.")  # of the encoder's fused projection


def our_name(official: str) -> str:
    for theirs, ours in RENAMED:
        official = official.replace(theirs, ours)
    return official


def our_weights() -> dict[str, Tensor]:
    """The parameters and buffers of the file under our names, in our shapes."""
    shapes = {name: x.shape for name, x in blank_model().state_dict().items()}
    weights: dict[str, Tensor] = {}
    for name in PARAMETERS:
        if THIRDS[0] in name:
            parts = [golden("params/" + name.replace(THIRDS[0], third)) for third in THIRDS]
            weights[our_name(name.replace(THIRDS[0], ".attention.query_key_value."))] = torch.cat(parts)
        elif not any(third in name for third in THIRDS):
            weights[our_name(name)] = golden("params/" + name)
    return {name: x.reshape(shapes[name]) for name, x in weights.items()}


def blank_model() -> JEPA:
    """A model of the file's sizes; its images are normalised already."""
    dim = SIZES["dim"]
    encoder_mlp = len(PARAMETERS["encoder.layers.0.mlp.fc1.bias"])
    config = JEPAConfig(
        encoder="vit", pixel_mean=(0.0,), pixel_std=(1.0,), patch_size=SIZES["patch"], encoder_dim=dim,
        encoder_layers=SIZES["vl"], encoder_heads=SIZES["vh"], encoder_mlp=encoder_mlp, latent_dim=dim,
        projector_dim=SIZES["ph"], history=SIZES["hist"], action_filters=SIZES["smooth"], predictor_dim=dim,
        predictor_layers=SIZES["depth"], predictor_heads=SIZES["heads"], predictor_head_dim=SIZES["dh"],
        predictor_mlp=SIZES["mlp"], dropout=0.0, sigreg_coef=COEFFICIENT, sigreg_directions=SIZES["proj"],
        sigreg_knots=SIZES["knots"],
    )  # fmt: skip
    pixels = Composite(pixels=Unbounded((3, SIZES["img"], SIZES["img"])))
    return JEPA(config, pixels, Composite(action=Bounded(-1.0, 1.0, shape=(SIZES["act"],), dtype=torch.float32)))


def reference_model() -> JEPA:
    model = blank_model()
    width = SIZES["act"]  # the file's actions are normalised already
    normalizer = {"action_encoder.mean": torch.zeros(width), "action_encoder.std": torch.ones(width)}
    model.load_state_dict(our_weights() | normalizer)
    return model.eval()


# ------------------------------------------------------------------ learning


def rows() -> TensorDict:
    """The file's batch as replay rows: an action stands in the row that it leads to, the last one leads nowhere."""
    pixels, action = golden("in/pixels"), golden("in/action")
    assert action.isnan().any()  # where episodes end, in the reference's data
    batch = pixels.shape[:2]
    is_init = torch.zeros(*batch, 1, dtype=torch.bool)
    is_init[:, 0] = True
    previous = torch.cat([torch.zeros_like(action[:, :1]), action[:, :-1]], 1)
    return TensorDict({"pixels": pixels, "previous_action": previous, "is_init": is_init}, batch_size=batch)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_forward_pass_and_its_losses_match(mode: str) -> None:
    model = reference_model().train(mode == "train")
    batch = rows()
    noise = ReplayNoise({"directions": [golden(f"{mode}/directions")]})
    action = batch["previous_action"][:, 1:].nan_to_num(0.0)
    with torch.no_grad():
        terms = model.learning_terms({"pixels": batch["pixels"]}, action, batch["is_init"].squeeze(-1), noise)
        every_action = model.action_encoder(golden("in/action").nan_to_num(0.0))
    close(terms.embedding, golden(f"{mode}/emb"), atol=2e-5)
    close(every_action, golden(f"{mode}/act_emb"), atol=2e-5)
    close(terms.predicted.squeeze(1), golden(f"{mode}/pred"), atol=2e-5)
    close(terms.losses["prediction"].mean(), golden(f"{mode}/pred_loss"), atol=1e-5)
    close(terms.losses["sigreg"].mean(), golden(f"{mode}/sigreg_loss"), rtol=1e-4)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_loss_and_its_gradients_match(mode: str) -> None:
    model = reference_model().train(mode == "train")
    noise = ReplayNoise({"directions": [golden(f"{mode}/directions")]})
    losses, _ = WorldModelLoss(model, model.config.loss_weights)(rows(), noise)
    assert noise.unused() == {}
    total = losses["loss_prediction"] + losses["loss_sigreg"]
    close(total, golden(f"{mode}/loss"), atol=1e-5)
    total.backward()
    ours = dict(model.named_parameters())
    expected = below(f"{mode}/grad/")
    assert len(expected) == 6
    for name, gradient in expected.items():
        found = ours[our_name(name)].grad
        assert found is not None
        close(found, gradient.reshape(found.shape), atol=1e-4 * float(gradient.abs().max()))


def test_training_moves_the_running_statistics_as_the_reference_does() -> None:
    model = reference_model().train()
    noise = ReplayNoise({"directions": [golden("train/directions")]})
    model.compute_loss(rows(), noise)
    after = model.state_dict()
    expected = below("train/after/")
    assert len(expected) == 4
    for name, statistic in expected.items():
        close(after[our_name(name)], statistic, atol=1e-6)
        assert int(after[our_name(name).rpartition(".")[0] + ".num_batches_tracked"]) == 1


# ------------------------------------------------------------------ planning


def context(model: JEPA, frames: Tensor, history: Tensor, goal: Tensor) -> Latent:
    """The latent after observing the frames [B, F, …] with the actions [B, F − 1, A] between them."""
    td = TensorDict({"pixels": frames[:, 0], "goal": {"pixels": goal[:, 0]}}, batch_size=frames.shape[:1])
    latent = model.read_latent(model.encode(td))
    for step in range(1, frames.shape[1]):
        observation = {"pixels": frames[:, step], ("goal", "pixels"): goal[:, 0]}
        is_init = torch.zeros(len(frames), 1, dtype=torch.bool)
        latent = model.filter_latent(latent, history[:, step - 1], observation, is_init, model.noise)
    return latent


@pytest.mark.parametrize("name", ["", "_one_frame"], ids=["whole context", "one frame"])
def test_rollouts_of_candidates_and_their_costs_match(name: str) -> None:
    model = reference_model()
    frames, history, goal = golden("plan/context"), golden("plan/action_history"), golden("plan/goal")
    candidates = golden("plan/candidates")  # [B, S, T, A]
    assert (candidates.shape[1], frames.shape[1]) == (SIZES["S"], SIZES["hist"])
    if name:
        frames, history = frames[:, -1:], history[:, :0]
    with torch.no_grad():
        latent = context(model, frames, history, goal)
        close(latent["goal"], golden("plan/goal_emb"), atol=2e-5)
        state = {leaf: x.unsqueeze(1).expand(-1, SIZES["S"], *x.shape[1:]) for leaf, x in latent.items()}
        predicted = [state["window"][:, :, i, 0] for i in range(frames.shape[1])]  # the context comes first
        for step in range(candidates.shape[2]):
            state = model.predict_latent(state, candidates[:, :, step], model.noise).latent
            predicted.append(state["tokens"][:, :, 0])
    expected = golden(f"plan/predicted_emb{name}")
    close(torch.stack(predicted, 2), expected, rtol=1e-4, atol=1e-5)
    cost = model.distance(state["tokens"], state["goal"]).squeeze(-1)
    close(cost, golden(f"plan/cost{name}"), rtol=1e-4)


@pytest.mark.parametrize("name", ["", "_one_frame"], ids=["whole context", "one frame"])
def test_terminal_rewards_of_imagination_add_up_to_the_published_cost(name: str) -> None:
    model = reference_model()
    frames, history, goal = golden("plan/context"), golden("plan/action_history"), golden("plan/goal")
    if name:
        frames, history = frames[:, -1:], history[:, :0]
    candidates = golden("plan/candidates")
    with torch.no_grad():
        latent = context(model, frames, history, goal)
        batch = candidates.shape[:2]
        td = TensorDict({}, batch_size=batch)
        model.write_latent(td, {leaf: x.unsqueeze(1).expand(*batch, *x.shape[1:]) for leaf, x in latent.items()})
        env = ImaginationEnv(model, reward=GoalReward(model.distance, terminal=True))
        total = torch.zeros(*batch, 1)
        td = env.reset(td, set_state=True)
        for action in candidates.unbind(2):
            td = env.step(td.set("action", action))["next"]
            total = total + td["reward"]
    before = model.distance(latent["tokens"], latent["goal"])
    close((before - total.squeeze(-1)), golden(f"plan/cost{name}"), rtol=1e-4)


def test_the_file_holds_nothing_that_is_not_compared() -> None:
    for mode in ("eval", "train"):
        test_the_forward_pass_and_its_losses_match(mode)
        test_the_loss_and_its_gradients_match(mode)
    test_training_moves_the_running_statistics_as_the_reference_does()
    for name in ("", "_one_frame"):
        test_rollouts_of_candidates_and_their_costs_match(name)
    assert set(GOLDEN) == used
