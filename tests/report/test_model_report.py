"""The model report: each number by hand, each fault in a model known exactly, and the page of a short run."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
from pathlib import Path

import pytest
import torch
from learning.test_learning import DREAMERV3_CARTPOLE, DREAMERV3_PENDULUM, TDMPC2_CARTPOLE, TDMPC2_PENDULUM
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl import cli
from worldloom_rl.commands.trained import newest
from worldloom_rl.config import WorldModelConfig
from worldloom_rl.models.dreamerv3 import DreamerV3, make_policy
from worldloom_rl.models.tdmpc2 import TDMPC2, PolicyPrior
from worldloom_rl.noise import GeneratorNoise, Noise
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.recipes import dreamerv3, tdmpc2
from worldloom_rl.report.agreement import area_under_curve, rank_correlation, reliability
from worldloom_rl.report.examination import VALUE_HEADS, examine, play_for_report
from worldloom_rl.report.model_findings import (
    Finding,
    judge,
    judge_continue,
    judge_reward,
    judge_value,
    verdict_text,
    without_value,
)
from worldloom_rl.report.model_report import Evidence, Pairs, gather_evidence, value_pairs
from worldloom_rl.report.model_report_page import report_page
from worldloom_rl.report.report_episodes import Episodes, play_streams
from worldloom_rl.specs.environment import specs_of
from worldloom_rl.training.run_directory import RunDirectory, provenance, write_json
from worldloom_rl.world_model import Latent, Observation, Prediction, WorldModel

GAMMA = 0.9
ANGLE = 0.7  # of a step
EDGE = 2.0  # beyond which an episode terminates
ROTATION = torch.tensor([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])


# ------------------------------------------------------------------ a model known exactly


class Spring(WorldModel):
    """A point that goes round, pushed by the action; its latent is the observation and every prediction is exact.

    Args:
        decodes: whether the model gives back the observation.
        fault: the part that predicts something else.
    """

    model_type = "spring-for-tests"

    def __init__(self, decodes: bool = True, fault: str = "") -> None:
        super().__init__(WorldModelConfig(), *self.default_specs())
        self.latent_spec = Composite(deterministic=Unbounded((2,)))
        self.decodes, self.fault = decodes, fault
        self.noise = GeneratorNoise(torch.Generator().manual_seed(0))

    @staticmethod
    def default_specs() -> tuple[Composite, Composite]:
        return Composite(place=Unbounded((2,))), Composite(action=Bounded(-1.0, 1.0, (1,)))

    @property
    def recurrent(self) -> bool:
        return False

    def encode_latent(self, observation: Observation, noise: Noise) -> Latent:
        return {"deterministic": observation["place"]}

    def filter_latent(self, previous, previous_action, observation, is_init, noise) -> Latent:  # type: ignore[no-untyped-def]
        return self.encode_latent(observation, noise)

    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        turn = ROTATION.T if self.fault == "dynamics" else ROTATION
        arrived = {"deterministic": moved(latent["deterministic"], action, turn)}
        decoded = Spring.decode_latent(self, arrived)
        return Prediction(arrived, decoded["reward"], decoded["continue"])

    def decode_latent(self, latent: Latent) -> dict:
        place = latent["deterministic"]
        # Another number of the same size in place of the right one.
        reward = place[..., 1:] if self.fault == "reward head" else place[..., :1]
        norm = place.norm(dim=-1, keepdim=True)
        margin = norm - EDGE if self.fault == "continue head" else EDGE - norm
        decoded = {"reward": reward, "continue": torch.sigmoid(50 * margin)}
        if self.decodes:
            decoded["place"] = place.flip(-1) if self.fault == "decoder" else place
        return decoded

    def latent_features(self, latent: Latent) -> Tensor:
        return latent["deterministic"]

    def discount(self, latent: Latent) -> Tensor:
        return torch.tensor(GAMMA)

    def compute_loss(self, batch: TensorDictBase, noise: Noise | None = None) -> tuple[dict, TensorDictBase]:
        raise NotImplementedError

    def value(self, latent: Latent, noise: Noise) -> Tensor:
        """[..., 1] Σ γᵏ⁻¹ rₜ₊ₖ without pushes: a linear function of the place."""
        weights = ROTATION[0] @ torch.linalg.inv(torch.eye(2) - GAMMA * ROTATION)
        place = latent["deterministic"]
        return ((place.flip(-1) if self.fault == "value head" else place) * weights).sum(-1, keepdim=True)


def moved(place: Tensor, action: Tensor, turn: Tensor = ROTATION) -> Tensor:
    return place @ turn.T + torch.cat([torch.zeros_like(action), action], -1)


def stream(pushes: float, steps: int, generator: torch.Generator) -> TensorDict:
    """Rows of episodes of up to 40 steps, pushed at random or not at all."""
    rows: list[dict[str, Tensor]] = []
    age = 0
    for _ in range(steps):
        last = rows[-1] if rows else None
        fresh = last is None or bool(last["terminated"]) or age == 40
        if fresh or last is None:
            place, action, age = torch.randn(2, generator=generator).clamp(-1.2, 1.2), torch.zeros(1), 0
        else:
            action = pushes * (2 * torch.rand(1, generator=generator) - 1)
            place, age = moved(last["place"], action), age + 1
        ended = torch.tensor([not fresh and float(place.norm()) > EDGE])
        reward = torch.zeros(1) if fresh else place[:1]
        rows.append({"place": place, "previous_action": action, "reward": reward, "terminated": ended,
                     "is_init": torch.tensor([fresh]), ("replay", "at_random"): torch.tensor(pushes > 0)})  # fmt: skip
    return TensorDict({key: torch.stack([row[key] for row in rows]) for key in rows[0]}, batch_size=[steps])


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    generator = torch.Generator().manual_seed(0)
    lengths = (150, 130)
    calm = [stream(0.0, steps, generator) for steps in lengths]
    pushed = [stream(1.0, steps, generator) for steps in lengths]
    return Episodes.beside_each_other({"the policy": [*calm, *pushed]}, "is_init")


def evidence_of(model: Spring, episodes: Episodes) -> Evidence:
    chosen = torch.Generator().manual_seed(0)
    return gather_evidence(model, model.value, episodes, gamma=GAMMA, horizon=8, generator=chosen)


def accused(findings: list[Finding]) -> list[str]:
    return [finding.part for finding in findings if finding.verdict == "at fault"]


@pytest.mark.parametrize("decodes", [True, False])
def test_an_exact_model_is_sound_in_every_part_and_its_errors_are_zero(decodes: bool, episodes: Episodes) -> None:
    evidence = evidence_of(Spring(decodes), episodes)
    findings = judge(evidence)
    parts = ["dynamics", "reward head", "continue head", "value head"]
    assert {finding.part: finding.verdict for finding in findings} == dict.fromkeys(
        ["decoder", *parts] if decodes else parts, "sound"
    )
    imagined = evidence.imagined
    assert imagined.alive[:, 0].all()
    assert not imagined.alive[:, -1].all()  # some episodes ended before
    assert imagined.error[imagined.alive].max() < 1e-6
    assert imagined.unchanged[imagined.alive].mean() > 1
    torch.testing.assert_close(imagined.reward[imagined.alive], imagined.true_reward[imagined.alive])
    torch.testing.assert_close(evidence.reward.predicted, evidence.reward.truth)
    (values,) = evidence.value.values()
    torch.testing.assert_close(values.predicted, values.truth)
    assert len(values.truth) > 50
    assert verdict_text(findings) == "No part that could be judged is at fault."


@pytest.mark.parametrize("decodes", [True, False])
@pytest.mark.parametrize("fault", ["dynamics", "reward head", "continue head", "value head"])
def test_the_faulty_part_and_no_other_is_accused(fault: str, decodes: bool, episodes: Episodes) -> None:
    findings = judge(evidence_of(Spring(decodes, fault), episodes))
    assert accused(findings) == [fault]
    assert verdict_text(findings) == f"At fault: {fault}."


def test_a_faulty_decoder_is_not_blamed_on_the_dynamics(episodes: Episodes) -> None:
    assert accused(judge(evidence_of(Spring(fault="decoder"), episodes))) == ["decoder"]


def test_what_a_planner_led_astray_comes_to_is_not_blamed_on_other_parts(episodes: Episodes) -> None:
    rows = episodes.rows.clone()
    rows["reward"][:2], rows["terminated"][:2] = -rows["reward"][:2], ~rows["terminated"][:2]
    strange = {"policy": episodes.policy.clone(), "policies": ("the planner", "the prior")}
    strange["policy"][2:] = 1
    spoiled = dataclasses.replace(episodes, rows=rows, **strange)
    assert {"reward head", "continue head"} <= set(accused(judge(evidence_of(Spring(), spoiled))))
    led = judge(evidence_of(Spring(), dataclasses.replace(spoiled, planner=0)))
    assert not {"reward head", "continue head"} & set(accused(led))


def test_parts_that_a_fault_elsewhere_must_show_in_are_not_judged(episodes: Episodes) -> None:
    def verdicts(evidence: Evidence) -> dict[str, str]:
        return {finding.part: finding.verdict for finding in judge(evidence)}

    right, value = (evidence_of(Spring(fault=fault), episodes) for fault in ("", "value head"))
    wrong = evidence_of(Spring(fault="dynamics"), episodes)
    ends = evidence_of(Spring(fault="continue head"), episodes).goes_on
    assert verdicts(dataclasses.replace(wrong, goes_on=ends))["continue head"] == "not judged"
    assert verdicts(dataclasses.replace(right, goes_on=ends))["continue head"] == "at fault"
    both = dataclasses.replace(wrong, value=value.value)
    assert verdicts(both)["value head"] == "at fault"  # an actor plays on as before
    assert verdicts(dataclasses.replace(both, planner="the planner"))["value head"] == "not judged"
    assert verdicts(dataclasses.replace(value, planner="the planner"))["value head"] == "at fault"


# ------------------------------------------------------------------ discounts


class Discounted(Spring):
    """Another γ, apart or learned with the probability to go on.

    Args:
        learned: whether the continue head says γ times the probability.
    """

    def __init__(self, gamma: float, learned: bool) -> None:
        super().__init__()
        self.gamma, self.learned = gamma, learned

    def decode_latent(self, latent: Latent) -> dict:
        decoded = super().decode_latent(latent)
        return {**decoded, "continue": decoded["continue"] * (self.gamma if self.learned else 1.0)}

    def predict_latent(self, latent: Latent, action: Tensor, noise: Noise) -> Prediction:
        prediction = super().predict_latent(latent, action, noise)
        return prediction._replace(continuation=prediction.continuation * (self.gamma if self.learned else 1.0))

    def discount(self, latent: Latent) -> Tensor:
        return torch.tensor(1.0 if self.learned else self.gamma)

    def value(self, latent: Latent, noise: Noise) -> Tensor:
        """[..., 1] Σ γᵏ⁻¹ rₜ₊ₖ without pushes."""
        weights = ROTATION[0] @ torch.linalg.inv(torch.eye(2) - self.gamma * ROTATION)
        return (latent["deterministic"] * weights).sum(-1, keepdim=True)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.5, 0.999, 1.0])
def test_every_discount_from_nothing_to_all_is_judged(gamma: float, learned: bool, episodes: Episodes) -> None:
    model = Discounted(gamma, learned)
    chosen = torch.Generator().manual_seed(0)
    evidence = gather_evidence(model, model.value, episodes, gamma=gamma, horizon=8, generator=chosen)
    findings = {finding.part: finding for finding in judge(evidence)}
    assert not accused(list(findings.values()))
    assert evidence.value_steps >= 1
    (values,) = evidence.value.values()
    assert len(values.truth) or gamma > 0.9  # then more steps count than these episodes have
    torch.testing.assert_close(values.predicted, values.truth, atol=1e-4, rtol=1e-4)
    if gamma == 0 and learned:
        assert "where the discount is 0" in findings["continue head"].text
    else:
        assert findings["continue head"].verdict == "sound"
    assert "data:image/png" in report_page("title", {}, evidence, list(findings.values()))


# ------------------------------------------------------------------ numbers by hand


def test_values_are_held_to_the_rewards_of_as_many_steps_or_up_to_a_terminal_state() -> None:
    value = torch.tensor([[10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0]])
    reward = torch.tensor([[0.0, 1.0, 2.0, 4.0, 0.0, 8.0, 16.0]])
    is_init = torch.tensor([[True, False, False, False, True, False, False]])
    terminated = torch.tensor([[False, False, False, True, False, False, False]])
    of_policy = torch.ones_like(is_init)
    pairs = value_pairs(value, reward, is_init, terminated, of_policy, 0.5, 2)
    # Row 0: 10 − ¼·30 against 1 + 2/2. Rows 1 and 2 lead to the terminal state, row 3 is it. Row 4: 50 − ¼·70 against
    # 8 + 16/2. Of rows 5 and 6 two steps are not known.
    assert pairs.predicted.tolist() == [2.5, 20.0, 30.0, 32.5]
    assert pairs.truth.tolist() == [2.0, 4.0, 4.0, 16.0]
    of_policy[0, 2] = False  # the action that led to row 2: rows 0 and 1 lead over it
    assert value_pairs(value, reward, is_init, terminated, of_policy, 0.5, 2).predicted.tolist() == [30.0, 32.5]


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    score, positive = torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([False, True, False, True])
    assert area_under_curve(score, positive) == pytest.approx(3.5 / 4)  # one of the four pairs is level
    assert area_under_curve(-score, positive) == pytest.approx(0.5 / 4)


def test_rank_correlation_is_spearmans() -> None:
    assert rank_correlation(Pairs(torch.tensor([1.0, 5.0, 100.0]), torch.tensor([2.0, 3.0, 4.0]))) == pytest.approx(1)
    mixed = Pairs(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 1.0, 4.0, 3.0]))
    assert rank_correlation(mixed) == pytest.approx(0.6)  # 1 − 6 Σd² / n(n² − 1) = 1 − 24 / 60
    assert rank_correlation(Pairs(torch.ones(3), torch.tensor([1.0, 2.0, 3.0]))) == 0


def test_reliability_counts_the_rows_of_each_bin() -> None:
    goes_on = Pairs(torch.tensor([0.1, 0.2, 0.9, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0]))
    low, high = reliability(goes_on, bins=2)
    assert low == pytest.approx((0.15, 0.5, 2))
    assert high == pytest.approx((0.95, 1.0, 2))


# ------------------------------------------------------------------ verdicts


def test_a_constant_reward_is_not_judged_unless_its_size_is_wrong() -> None:
    ones = torch.ones(50)
    right = judge_reward(Pairs(1.01 * ones, ones))
    assert right.verdict == "not judged"
    assert "every one of 50 rewards was 1" in right.text
    wrong = judge_reward(Pairs(3 * ones, ones))
    assert wrong.verdict == "at fault"
    assert "but it predicts 3 (median)" in wrong.text
    assert judge_reward(Pairs(0.3 * ones, 0 * ones)).verdict == "not judged"  # of no size to compare with


def test_a_reward_head_is_at_fault_where_the_mean_would_do_about_as_well() -> None:
    truth = torch.linspace(-1, 1, 100)
    assert judge_reward(Pairs(truth.mean() + 0 * truth, truth)).verdict == "at fault"
    assert judge_reward(Pairs(0.3 * truth, truth)).verdict == "weak"  # 49 % unexplained
    assert judge_reward(Pairs(0.9 * truth, truth)).verdict == "sound"
    assert judge_reward(Pairs(truth[:5], truth[:5])).verdict == "not judged"


def test_a_continue_head_is_judged_by_false_alarms_where_nothing_ended() -> None:
    ones = torch.ones(100)
    quiet = judge_continue({"a": Pairs(0.999 * ones, ones)})
    assert quiet.verdict == "not judged"
    assert "0 of 100 steps ended an episode in a terminal state" in quiet.text
    assert judge_continue({"a": Pairs(0.9 * ones, ones)}).verdict == "at fault"
    absent = judge_continue({})
    assert absent.verdict == "not judged"
    assert "no continue head" in absent.text


def test_a_continue_head_that_never_foresees_an_end_is_at_fault_where_some_came() -> None:
    truth = (torch.arange(100) % 20 > 0).float()
    blind, right = Pairs(torch.full((100,), 0.999), truth), Pairs(truth.clamp(0.1, 0.99), truth)
    assert judge_continue({"a": blind}).verdict == "at fault"
    assert judge_continue({"a": right}).verdict == "sound"
    assert "on b it tells of an end in" in judge_continue({"a": blind, "b": right}).text


def test_values_may_fit_either_policy_and_need_the_scale_or_the_order() -> None:
    truth = torch.linspace(-5, 5, 50)
    wrong, right = Pairs(truth.flip(0), truth), Pairs(truth + 0.1, truth)
    assert judge_value({"a": wrong, "b": right}, 5, 0.9).verdict == "sound"
    assert "under b" in judge_value({"a": wrong, "b": right}, 5, 0.9).text
    assert judge_value({"a": wrong}, 5, 0.9).verdict == "at fault"
    assert judge_value({"a": Pairs(truth / 9, truth)}, 5, 0.9).verdict == "weak"  # in order, but far too small
    assert judge_value({"a": Pairs(1e6 * truth, truth)}, 5, 0.9).verdict == "at fault"
    assert judge_value({"a": Pairs(truth[:3], truth[:3])}, 5, 0.9).verdict == "not judged"


def test_values_of_returns_that_are_all_alike_are_judged_by_their_size_alone() -> None:
    alike = torch.full((50,), 100.0)
    right = judge_value({"a": Pairs(alike + 10, alike)}, 5, 0.9)
    assert right.verdict == "not judged"
    assert "off by 10 % of their mean" in right.text
    assert judge_value({"a": Pairs(alike - 60, alike)}, 5, 0.9).verdict == "at fault"
    assert judge_value({"a": Pairs(0 * alike, 0 * alike)}, 5, 0.9).verdict == "not judged"


# ------------------------------------------------------------------ episodes


@pytest.mark.parametrize("family", ["dreamerv3", "tdmpc2"])
def test_the_first_actions_of_each_episode_are_random_and_a_recurrent_model_is_told(family: str) -> None:
    torch.manual_seed(0)
    config = dreamerv3.Config(env="CartPole-v1", time_limit=7)
    env = config.make_env(3, 0)
    preset, specs = find_preset(f"{family}:tiny")[1], specs_of(env)
    if family == "dreamerv3":
        model: WorldModel = DreamerV3(preset, *specs)
        policy = make_policy(model)  # type: ignore[arg-type]
    else:
        model = TDMPC2(preset, *specs)
        policy = TensorDictSequential(model.encode, PolicyPrior(model))
    told: list[Tensor] = []

    class Watched(TensorDictSequential):
        def forward(self, td: TensorDictBase) -> TensorDictBase:
            if family == "dreamerv3" and not td["is_init"][2]:
                told.append(td["previous_action"][2].clone())
            return super().forward(td)

    random_steps = torch.tensor([0, 3, 100])
    streams = play_streams(model, env, Watched(*policy), steps=20, random_steps=random_steps)
    assert len(streams) == 3
    for rows, random in zip(streams, random_steps.tolist(), strict=True):
        age, expected = 0, []
        for is_init in rows["is_init"].flatten().tolist():
            age = 0 if is_init else age + 1
            expected.append(0 < age <= random)
        assert rows["replay", "at_random"].tolist() == expected
        assert rows["is_init"].sum() >= 3
    if family == "dreamerv3":  # told, at every row that was acted from, what was done in the third environment
        inside = ~streams[2]["is_init"].flatten()
        assert torch.equal(torch.stack(told), streams[2]["previous_action"][:-1][inside[:-1] & inside[1:]])


def test_the_values_of_a_run_that_explored_are_not_judged(episodes: Episodes) -> None:
    found = judge(evidence_of(Spring(fault="value head"), episodes))
    told = without_value(found, "the run explored")
    assert accused(found) == ["value head"]
    assert accused(told) == []
    assert [each.part for each in told] == [each.part for each in found]
    assert told[-1].text == "The value head is not judged yet: the run explored."


def test_padding_is_no_row(episodes: Episodes) -> None:
    assert episodes.rows.shape == episodes.valid.shape == (4, 150)
    assert episodes.valid.sum(-1).tolist() == [150, 130, 150, 130]
    assert episodes.rows["is_init"][~episodes.valid].all()
    assert (episodes.policy[2:][episodes.valid[2:]] == -1).all()


# ------------------------------------------------------------------ the page


def test_the_page_holds_findings_and_pictures_and_escapes_what_it_is_given(episodes: Episodes) -> None:
    evidence = evidence_of(Spring(), episodes)
    findings = [Finding("a <part>", "weak", 'a "text" & more')]
    page = report_page("<script>alert(1)</script>", {"a <fact>": "<b>"}, evidence, findings)
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "a &lt;part&gt;" in page
    assert "a &quot;text&quot; &amp; more" in page
    assert "a &lt;fact&gt;" in page
    assert page.count('src="data:image/png;base64,iVBOR') == 5  # a PNG's first bytes
    assert "http" not in page


@pytest.mark.parametrize("family", ["dreamerv3", "tdmpc2"])
def test_report_writes_a_page_for_a_short_run_and_replaces_it(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shared = {"steps": 40, "time_limit": 20, "eval_episodes": 1, "final_eval_episodes": 1, "run_directory": str(run)}
    if family == "dreamerv3":
        sizes = ("deterministic=16", "hidden=8", "groups=2", "classes=4", "blocks=2", "units=8", "num_bins=21",
                 "batch_size=4", "batch_length=8", "horizon=3", "updates_per_step=0.2")  # fmt: skip
        dreamerv3.train(dreamerv3.Config(env="CartPole-v1", overrides=sizes, **shared))
    else:
        sizes = ("latent_dim=16", "encoder_dim=16", "mlp_dim=16", "num_bins=21", "batch_size=8", "num_samples=16",
                 "num_elites=4", "num_policy_trajectories=2", "iterations=1")  # fmt: skip
        tdmpc2.train(tdmpc2.Config(env="Pendulum-v1", overrides=sizes, seed_steps=20, **shared))
    (run / "report").mkdir()
    (run / "report" / "index.html").write_text("an older report")
    (run / "report" / "notes.txt").write_text("a person's")
    capsys.readouterr()
    few = ["--steps", "20", "--memories", "12", "--ensemble-updates", "5"]
    cli.main(["report", str(run), "--episodes", "1" if family == "dreamerv3" else "2", *few])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"The page with pictures: {run / 'report' / 'index.html'}" in printed
    assert {file.name for file in (run / "report").iterdir()} == {"index.html", "notes.txt"}
    page = (run / "report" / "index.html").read_text()
    parts = ["dynamics", "reward head", "continue head", "value head"]
    assert all(f"<td>{part}</td>" in page for part in parts)
    assert ("<td>decoder</td>" in page) == (family == "dreamerv3")
    assert page.count("data:image/png;base64,") == (7 if family == "dreamerv3" else 6)  # no continue head
    assert "nearest memory, not a prediction" in page
    assert "Ten predictors of the next latent" in page
    assert ("no continue head" in page) == (family == "tdmpc2")
    with pytest.raises(SystemExit):
        cli.main(["report", str(run), "--episodes", "0"])
    assert "--episodes must be a whole number in [1, 4096], got 0" in capsys.readouterr().err


# ------------------------------------------------------------------ trained models, each head shuffled

RESULT = Path(__file__).parents[1] / "learning" / "results" / "report-faults.json"
SEEDS = (0, 1, 2)
TASKS = {
    "dreamerv3-pendulum": (dreamerv3, DREAMERV3_PENDULUM),
    "dreamerv3-cartpole": (dreamerv3, DREAMERV3_CARTPOLE),
    "tdmpc2-pendulum": (tdmpc2, TDMPC2_PENDULUM),
    "tdmpc2-cartpole": (tdmpc2, TDMPC2_CARTPOLE),
}
HEADS = {
    "dreamerv3": {
        "dynamics": "rssm.prior",
        "reward head": "reward_head",
        "continue head": "continue_head",
        "value head": "behavior.critic",
    },
    "tdmpc2": {
        "dynamics": "dynamics",
        "reward head": "reward_head",
        "continue head": "termination_head",
        "value head": "behavior.q_ensemble",
    },
}


def heads_of(task: str) -> dict[str, str]:
    """The heads that a task's model has, by the part's name in a report: a TD-MPC2 foresees ends where some come."""
    heads = HEADS[task.partition("-")[0]]
    return {part: head for part, head in heads.items() if part != "continue head" or task != "tdmpc2-pendulum"}


def shuffled(model: WorldModel, head: str, seed: int) -> WorldModel:
    """A copy with the entries of every weight of a head in another order."""
    wrong, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in wrong.get_submodule(head).parameters():
            weight.copy_(weight.flatten()[torch.randperm(weight.numel(), generator=generator)].reshape(weight.shape))
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("task", TASKS)
def test_a_report_names_the_shuffled_head_of_a_trained_model(task: str, seed: int, tmp_path: Path) -> None:
    """Trains a model, or takes the run <task>-seed<seed> in the directory WORLDLOOM_RUNS, and keeps what was found."""
    recipe, settings = TASKS[task]
    if "WORLDLOOM_RUNS" in os.environ:
        run = RunDirectory(Path(os.environ["WORLDLOOM_RUNS"]) / f"{task}-seed{seed}")
    else:
        run = recipe.train(recipe.Config(**settings, seed=seed, run_directory=str(tmp_path / "run")))
    newest_run = newest(run.path)
    config, model, agent_steps = newest_run.config, newest_run.model, newest_run.agent_steps
    trained = json.loads((run.path / "result.json").read_text())
    assert {name: trained["config"][name] for name in settings} == json.loads(json.dumps(settings))
    assert trained["config"]["seed"] == seed
    found, played = {}, None
    for part in ("healthy", *heads_of(task)):
        judged = model if part == "healthy" else shuffled(model, heads_of(task)[part], seed)
        value_head = VALUE_HEADS[model.model_type](judged)
        if played is None or recipe is tdmpc2:  # it plans with every head; an actor plays on as before
            policy = recipe.RECIPE.make_policy(judged)
            played = play_for_report(
                judged, value_head, policy, config.make_env, episodes=4, steps=150, seed=1000 + seed
            )
        findings = judge(examine(judged, value_head, played, seed=1000 + seed))
        found[part] = {finding.part: {"verdict": finding.verdict, "text": finding.text} for finding in findings}
    recorded = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else {}
    recorded[f"{task}-seed{seed}"] = {
        "seed": seed,
        "agent_steps": agent_steps,
        "final_mean_return": trained["final_mean_return"],
        "trained_by_commit": trained["commit"],
        "found": found,
    }
    write_json(RESULT, {"runs": dict(sorted(recorded.items())), **provenance()})
    check_recorded(task, recorded[f"{task}-seed{seed}"])


def check_recorded(task: str, result: dict) -> None:
    found = result["found"]
    assert set(found) == {"healthy", *heads_of(task)}
    for shuffled_part, findings in found.items():
        at_fault = [part for part, finding in findings.items() if finding["verdict"] == "at fault"]
        assert at_fault == ([] if shuffled_part == "healthy" else [shuffled_part]), (task, shuffled_part)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("task", TASKS)
def test_the_recorded_reports_name_each_shuffled_head_and_accuse_no_other(task: str, seed: int) -> None:
    result = json.loads(RESULT.read_text())
    assert {"commit", "versions", "machine", "runs"} <= set(result)
    check_recorded(task, result["runs"][f"{task}-seed{seed}"])
