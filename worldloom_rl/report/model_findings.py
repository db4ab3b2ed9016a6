"""Which part of a world model is at fault: plain-language findings from a report's evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worldloom_rl.report.agreement import area_under_curve, mean_error, rank_correlation, reach
from worldloom_rl.report.model_report import ByHorizon, Evidence, Pairs

Verdict = Literal["sound", "weak", "not judged", "at fault"]

_BEST_FIRST: tuple[Verdict, ...] = ("sound", "weak", "not judged", "at fault")

_NEAR = 5  # imagined steps that the dynamics are judged by
_BLIND = 0.5  # share of the variance; an error below it is weak at most, however little changes
_OTHER_ROW = 2.25  # squared error of a latent leaf; that of another row's leaf, drawn blindly, is 2
_UNEXPLAINED_WEAK, _UNEXPLAINED = 0.3, 0.7  # share of the rewards' variance
_CONSTANT = 1e-4  # standard deviation, as a share of the size, below which rewards are constant
_OFF = 0.25  # error of a constant or nearly constant reward, as a share of it
_AUC_WEAK, _AUC = 0.9, 0.75
_ENDS = 0.05  # more ends foreseen a step than came: episodes seem to last less than 20 steps
_FEWEST = 20  # rows, or 3 ends, below which nothing is judged
_FEWEST_ENDS = 3
_ALIKE = 0.1  # standard deviation, as a share of the mean, below which rewards or returns are nearly alike
_OFF_VALUE = 0.5  # error of such returns, as a share of their mean
_VALUE_WEAK, _VALUE, _VALUE_ABSURD = 0.3, 0.7, 2.0  # unexplained share; above the last no order makes good for it
_VALUE_RANK = 0.6  # rank correlation that excuses a wrong scale
_VALUE_LAG = 0.4  # and from which on a wrong scale may be that of an older policy


@dataclass(frozen=True)
class Finding:
    """What was found of one part."""

    part: str
    verdict: Verdict
    text: str


def judge(evidence: Evidence) -> list[Finding]:
    """A finding for every part of the model, each from rows where the others' faults do not show.

    Where they must show, a part is not accused: of ends learned from foreseen latents while the dynamics are at fault,
    and of the values of a planner that a part at fault leads astray.
    """
    found = [] if evidence.target == "latent" else [judge_decoder(evidence.imagined)]
    dynamics = judge_dynamics(evidence.imagined, evidence.target)
    reward = judge_reward(evidence.reward)
    goes_on = judge_continue(evidence.goes_on)
    if not evidence.goes_on and evidence.gamma == 0:
        text = "The continue head is not judged: where the discount is 0 nothing that follows counts, ended or not."
        goes_on = Finding("continue head", "not judged", text)
    if "at fault" == dynamics.verdict == goes_on.verdict:
        goes_on = _postponed(
            goes_on, "it may be learned from the latents that the dynamics foresee, which are at fault"
        )
    value = judge_value(evidence.value, evidence.value_steps, evidence.gamma)
    astray = [finding.part for finding in (dynamics, reward, goes_on) if finding.verdict == "at fault"]
    if evidence.planner and astray and value.verdict == "at fault":
        value = _postponed(
            value, f"{evidence.planner} plays by parts at fault ({_joined(astray)}), not as it learned to"
        )
    return [*found, dynamics, reward, goes_on, value]


def without_value(findings: Sequence[Finding], why: str) -> list[Finding]:
    """The findings, of which the value head's is that it cannot be held to rewards, and why."""
    return [_postponed(each, why) if each.part == "value head" else each for each in findings]


def _postponed(finding: Finding, why: str) -> Finding:
    return Finding(finding.part, "not judged", f"The {finding.part} is not judged yet: {why}.")


def verdict_text(findings: Sequence[Finding]) -> str:
    """One sentence: what is at fault."""
    faults = [finding.part for finding in findings if finding.verdict == "at fault"]
    if not faults:
        unjudged = [finding.part for finding in findings if finding.verdict == "not judged"]
        rest = f" Not judged: {_joined(unjudged)}." if unjudged else ""
        return f"No part that could be judged is at fault.{rest}"
    return f"At fault: {_joined(faults)}."


def judge_decoder(imagined: ByHorizon) -> Finding:
    """Whether the decoder gives back the observation that the model has just seen."""
    lost = float(imagined.seen.mean())
    share = f"{_share(lost)} the observations' variance is lost between seeing and decoding"
    if lost > _UNEXPLAINED:
        return Finding(
            "decoder", "at fault", f"The encoder or the decoder is at fault: {share}, before any step is imagined."
        )
    verdict: Verdict = "weak" if lost > _UNEXPLAINED_WEAK else "sound"
    return Finding("decoder", verdict, f"What the model has just seen it decodes well: {share}." if verdict == "sound"
                   else f"The decoder gives back the observation roughly: {share}.")  # fmt: skip


def judge_dynamics(imagined: ByHorizon, target: str) -> Finding:
    """Whether a few imagined steps foresee more than that nothing changes, and a latent like the one observed."""
    near = min(_NEAR, imagined.alive.shape[1])
    worst, leaf = max(
        (float(mean_error(error, imagined.alive, 1)), name) for name, error in imagined.latent_error.items()
    )
    added = still = 0.0
    for steps in (1, near):
        # What decoding loses by itself is not the dynamics' fault.
        added = float(mean_error(imagined.error, imagined.alive, steps) - imagined.seen.mean())
        still = float(mean_error(imagined.unchanged, imagined.alive, steps))
        if added > still and added > _BLIND:
            return Finding(
                "dynamics",
                "at fault",
                f"The dynamics are at fault: over {_steps(steps)} the {target} is off by {_share(added)} its "
                f"variance (squared error); foreseeing no change at all would be off by {_percent(still)}.",
            )
    if worst > _OTHER_ROW:
        return Finding(
            "dynamics",
            "at fault",
            f"The dynamics are at fault: one step ahead the {leaf} part of the latent they foresee is further from the "
            f"observed one (squared error {worst:.2f} of its variance) than that of any other moment would be (2.00).",
        )
    text = (
        f"Over {_steps(near)} the {target} is off by {_share(added)} its variance (squared error); foreseeing no "
        f"change would be off by {_percent(still)}. Imagination beats that, and the average, for the first "
        f"{reach(imagined)} of {imagined.alive.shape[1]} steps."
    )
    return Finding("dynamics", "weak" if added > still / 2 else "sound", text)


def judge_reward(reward: Pairs) -> Finding:
    """Whether rewards are told from the latents of what was observed."""
    part, count = "reward head", len(reward.truth)
    if count < _FEWEST:
        return Finding(part, "not judged", f"The reward head is not judged: only {count} rewards came.")
    error = (reward.predicted - reward.truth).double().square().mean()
    mean, std = float(reward.truth.double().mean()), float(reward.truth.double().std(correction=0))
    if std <= _ALIKE * abs(mean) or std == 0:
        constant = std <= _CONSTANT * abs(mean)
        said = f"every one of {count} rewards was {mean:.3g}"
        said = said if constant else f"the {count} rewards were nearly alike, {mean:.3g} on average"
        off = float(error.sqrt())
        if mean and off > _OFF * abs(mean):
            typical = float(reward.predicted.double().median())
            return Finding(
                part, "at fault", f"The reward head is at fault: {said}, but it predicts {typical:.3g} (median)."
            )
        return Finding(
            part,
            "not judged",
            f"The reward head is not judged: {said}. It is off by {off:.2g}, but whether it would tell better from "
            "worse cannot be seen.",
        )
    unexplained = float(error) / std**2
    text = (
        f"on observed latents its squared error is {_share(unexplained)} the rewards' variance (always predicting "
        f"their mean, {mean:.3g}, is 100 %)"
    )
    if unexplained > _UNEXPLAINED:
        return Finding(part, "at fault", f"The reward head is at fault: {text}.")
    verdict: Verdict = "weak" if unexplained > _UNEXPLAINED_WEAK else "sound"
    return Finding(part, verdict, f"The reward head is {verdict}: {text}.")


def judge_continue(goes_on: dict[str, Pairs]) -> Finding:
    """Whether ends of episodes are told from latents of one of the kinds that the head may be learned from."""
    if not goes_on:
        text = "The model has no continue head: it takes every episode to go on."
        return Finding("continue head", "not judged", text)
    found = [_judge_continue(pairs, where) for where, pairs in goes_on.items()]
    return min(found, key=lambda finding: _BEST_FIRST.index(finding.verdict))


def _judge_continue(goes_on: Pairs, where: str) -> Finding:
    part = "continue head"
    ends, foreseen = 1 - goes_on.truth, 1 - goes_on.predicted
    count, rows = int(ends.sum()), len(ends)
    rates = f"on {where} it tells of an end in {_percent(float(foreseen.mean()))} of the steps"
    came = f"{count} of {rows} steps ended an episode in a terminal state"
    if float(foreseen.mean() - ends.mean()) > _ENDS:
        return Finding(part, "at fault", f"The continue head is at fault: {rates}, but {came}.")
    if count < _FEWEST_ENDS:
        return Finding(
            part,
            "not judged",
            f"The continue head is not judged: {came}, too few to tell whether it knows an end. Where none came it "
            f"raises no false alarm: {rates}.",
        )
    auc = area_under_curve(foreseen, ends.bool())
    text = (
        f"in {_percent(auc)} of all pairs it finds the end likelier where one came (blind guesses: 50 %); {rates}, "
        f"and {came}"
    )
    if auc < _AUC:
        return Finding(part, "at fault", f"The continue head is at fault: {text}.")
    verdict: Verdict = "weak" if auc < _AUC_WEAK else "sound"
    return Finding(part, verdict, f"The continue head is {verdict}: {text}.")


def judge_value(value: dict[str, Pairs], steps: int, gamma: float) -> Finding:
    """Whether values fit the returns of one of the policies that they may be of."""
    known = {policy: pairs for policy, pairs in value.items() if len(pairs.truth) >= _FEWEST}
    if not known:
        text = f"The value head is not judged: too few episodes lasted {steps} steps or terminated."
        return Finding("value head", "not judged", text)
    found = [_judge_value(pairs, policy, steps, gamma) for policy, pairs in known.items()]
    return min(found, key=lambda finding: _BEST_FIRST.index(finding.verdict))


def _judge_value(pairs: Pairs, policy: str, steps: int, gamma: float) -> Finding:
    part, predicted, truth = "value head", pairs.predicted.double(), pairs.truth.double()
    mean, std = float(truth.mean()), float(truth.std(correction=0))
    error = float((predicted - truth).square().mean())
    text = (
        f"of the next {steps} steps under {policy} it expects a return of {float(predicted.median()):.3g} (median), "
        f"{float(truth.median()):.3g} came, discounted by {gamma:.3g} a step"
    )
    if std <= _ALIKE * abs(mean) or std == 0:
        off = math.sqrt(error) / abs(mean) if mean else 0.0
        text += f"; the {len(truth)} returns were nearly alike, and it is off by {_share(off)} their mean"
        if off > _OFF_VALUE:
            return Finding(part, "at fault", f"The value head is at fault: {text}.")
        return Finding(part, "not judged", f"The size of the value head is right, its order is not judged: {text}.")
    unexplained, rank = error / std**2, rank_correlation(pairs)
    text += (
        f"; its squared error is {_share(unexplained)} the returns' variance, the rank correlation {rank:.2f}, over "
        f"{len(truth)} rows"
    )
    if unexplained > _VALUE_ABSURD or (unexplained > _VALUE and rank < _VALUE_RANK):
        lag = "" if rank < _VALUE_LAG else " Its order is right: it may lag behind a policy that has just improved."
        return Finding(part, "at fault", f"The value head is at fault: {text}.{lag}")
    verdict: Verdict = "weak" if unexplained > _VALUE_WEAK else "sound"
    return Finding(part, verdict, f"The value head is {verdict}: {text}.")


# ------------------------------------------------------------------ words


def _steps(count: int) -> str:
    return "one imagined step" if count == 1 else f"{count} imagined steps"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _share(of_one: float) -> str:
    """A share or a multiple, to stand before the name of the whole."""
    return f"{_percent(of_one)} of" if of_one < 10 else f"{of_one:.2g} times"


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
