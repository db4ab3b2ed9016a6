"""The JEPA model against numbers of LeWM's reference code: every tensor of each lewm*.safetensors is an input or is
compared.

Sizes, names and the regularizer's weight come from the files (see `jepa_golden`). Tolerances: outputs 2e-5, losses
1e-5, batch norm buffers 1e-6, rollouts and costs 1e-4 relative, gradients 1e-4 of the largest entry.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from jepa_golden import close, files, metadata
from safetensors.torch import load_file
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl import ReplayNoise, WorldModelLoss
from worldloom_rl.functional.goal_reward import GoalReward
from worldloom_rl.models.jepa import JEPA, JEPAConfig
from worldloom_rl.world_model import Latent
from worldloom_rl.world_model.env import ImaginationEnv


class Golden:
    """One file: its tensors, which notes those that were asked for, and its sizes."""

    def __init__(self, path: Path) -> None:
        self.tensors = load_file(path)
        said = metadata(path)
        self.sizes: dict[str, int] = json.loads(said["config"])
        self.coefficient = float(said["sigreg_weight"])
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.used.add(name)
        return self.tensors[name].clone()

    def below(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): self[name] for name in self.tensors if name.startswith(prefix)}


@functools.cache
def read(path: Path) -> Golden:
    return Golden(path)


@pytest.fixture(params=files("lewm"), ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    return read(request.param)


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


def our_weights(golden: Golden) -> dict[str, Tensor]:
    """The parameters and buffers of the file under our names, in our shapes."""
    shapes = {name: x.shape for name, x in blank_model(golden).state_dict().items()}
    weights: dict[str, Tensor] = {}
    for name, x in golden.below("params/").items():
        if THIRDS[0] in name:
            parts = [golden["params/" + name.replace(THIRDS[0], third)] for third in THIRDS]
            weights[our_name(name.replace(THIRDS[0], ".attention.query_key_value."))] = torch.cat(parts)
        elif not any(third in name for third in THIRDS):
            weights[our_name(name)] = x
    return {name: x.reshape(shapes[name]) for name, x in weights.items()}


def blank_model(golden: Golden) -> JEPA:
    """A model of the file's sizes; its images are normalised already."""
    sizes = golden.sizes
    dim = sizes["dim"]
    encoder_mlp = len(golden["params/encoder.layers.0.mlp.fc1.bias"])
    config = JEPAConfig(
        encoder="vit", pixel_mean=(0.0,), pixel_std=(1.0,), patch_size=sizes["patch"], encoder_dim=dim,
        encoder_layers=sizes["vl"], encoder_heads=sizes["vh"], encoder_mlp=encoder_mlp, latent_dim=dim,
        projector_dim=sizes["ph"], history=sizes["hist"], action_filters=sizes["smooth"], predictor_dim=dim,
        predictor_layers=sizes["depth"], predictor_heads=sizes["heads"], predictor_head_dim=sizes["dh"],
        predictor_mlp=sizes["mlp"], dropout=0.0, sigreg_coef=golden.coefficient, sigreg_directions=sizes["proj"],
        sigreg_knots=sizes["knots"],
    )  # fmt: skip
    pixels = Composite(pixels=Unbounded(golden["in/pixels"].shape[2:]))
    return JEPA(config, pixels, Composite(action=Bounded(-1.0, 1.0, shape=(sizes["act"],), dtype=torch.float32)))


def reference_model(golden: Golden) -> JEPA:
    model = blank_model(golden)
    width = golden.sizes["act"]  # the file's actions are normalised already
    normalizer = {"action_encoder.mean": torch.zeros(width), "action_encoder.std": torch.ones(width)}
    model.load_state_dict(our_weights(golden) | normalizer)
    return model.eval()


# ------------------------------------------------------------------ learning


def rows(golden: Golden) -> TensorDict:
    """The file's batch as replay rows: an action stands in the row that it leads to, the last one leads nowhere."""
    pixels, action = golden["in/pixels"], golden["in/action"]
    assert action.isnan().any()  # where episodes end, in the reference's data
    batch = pixels.shape[:2]
    is_init = torch.zeros(*batch, 1, dtype=torch.bool)
    is_init[:, 0] = True
    previous = torch.cat([torch.zeros_like(action[:, :1]), action[:, :-1]], 1)
    return TensorDict({"pixels": pixels, "previous_action": previous, "is_init": is_init}, batch_size=batch)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_forward_pass_and_its_losses_match(golden: Golden, mode: str) -> None:
    model = reference_model(golden).train(mode == "train")
    batch = rows(golden)
    noise = ReplayNoise({"directions": [golden[f"{mode}/directions"]]})
    action = batch["previous_action"][:, 1:].nan_to_num(0.0)
    with torch.no_grad():
        terms = model.learning_terms({"pixels": batch["pixels"]}, action, batch["is_init"].squeeze(-1), noise)
        every_action = model.action_encoder(golden["in/action"].nan_to_num(0.0))
    close(terms.embedding, golden[f"{mode}/emb"], atol=2e-5)
    close(every_action, golden[f"{mode}/act_emb"], atol=2e-5)
    close(terms.predicted.squeeze(1), golden[f"{mode}/pred"], atol=2e-5)
    close(terms.losses["prediction"].mean(), golden[f"{mode}/pred_loss"], atol=1e-5)
    close(terms.losses["sigreg"].mean(), golden[f"{mode}/sigreg_loss"], rtol=1e-4)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_loss_and_its_gradients_match(golden: Golden, mode: str) -> None:
    model = reference_model(golden).train(mode == "train")
    noise = ReplayNoise({"directions": [golden[f"{mode}/directions"]]})
    losses, _ = WorldModelLoss(model, model.config.loss_weights)(rows(golden), noise)
    assert noise.unused() == {}
    total = losses["loss_prediction"] + losses["loss_sigreg"]
    close(total, golden[f"{mode}/loss"], atol=1e-5)
    total.backward()
    ours = dict(model.named_parameters())
    expected = golden.below(f"{mode}/grad/")
    assert expected
    for name, gradient in expected.items():
        found = ours[our_name(name)].grad
        assert found is not None
        atol = 1e-4 * float(gradient.abs().max())
        torch.testing.assert_close(found, gradient.reshape(found.shape), rtol=0.0, atol=atol)


def test_training_moves_the_running_statistics_as_the_reference_does(golden: Golden) -> None:
    model = reference_model(golden).train()
    noise = ReplayNoise({"directions": [golden["train/directions"]]})
    model.compute_loss(rows(golden), noise)
    after = model.state_dict()
    expected = golden.below("train/after/")
    assert {name.rpartition(".")[2] for name in expected} == {"running_mean", "running_var"}
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
def test_rollouts_of_candidates_and_their_costs_match(golden: Golden, name: str) -> None:
    model = reference_model(golden)
    frames, history, goal = golden["plan/context"], golden["plan/action_history"], golden["plan/goal"]
    candidates = golden["plan/candidates"]  # [B, S, T, A]
    count = candidates.shape[1]
    if name:
        frames, history = frames[:, -1:], history[:, :0]
    with torch.no_grad():
        latent = context(model, frames, history, goal)
        close(latent["goal"], golden["plan/goal_emb"], atol=2e-5)
        state = {leaf: x.unsqueeze(1).expand(-1, count, *x.shape[1:]) for leaf, x in latent.items()}
        predicted = [state["window"][:, :, i, 0] for i in range(frames.shape[1])]  # the context comes first
        for step in range(candidates.shape[2]):
            state = model.predict_latent(state, candidates[:, :, step], model.noise).latent
            predicted.append(state["tokens"][:, :, 0])
    expected = golden[f"plan/predicted_emb{name}"]
    close(torch.stack(predicted, 2), expected, rtol=1e-4, atol=1e-5)
    cost = model.distance(state["tokens"], state["goal"]).squeeze(-1)
    close(cost, golden[f"plan/cost{name}"], rtol=1e-4)


@pytest.mark.parametrize("name", ["", "_one_frame"], ids=["whole context", "one frame"])
def test_terminal_rewards_of_imagination_add_up_to_the_published_cost(golden: Golden, name: str) -> None:
    model = reference_model(golden)
    frames, history, goal = golden["plan/context"], golden["plan/action_history"], golden["plan/goal"]
    if name:
        frames, history = frames[:, -1:], history[:, :0]
    candidates = golden["plan/candidates"]
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
    close((before - total.squeeze(-1)), golden[f"plan/cost{name}"], rtol=1e-4)


def test_the_file_holds_nothing_that_is_not_compared(golden: Golden) -> None:
    golden.used.clear()
    for mode in ("eval", "train"):
        test_the_forward_pass_and_its_losses_match(golden, mode)
        test_the_loss_and_its_gradients_match(golden, mode)
    test_training_moves_the_running_statistics_as_the_reference_does(golden)
    for name in ("", "_one_frame"):
        test_rollouts_of_candidates_and_their_costs_match(golden, name)
    assert set(golden.tensors) == golden.used
