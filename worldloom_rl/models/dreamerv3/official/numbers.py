"""The numbers of an official DreamerV3 run's config.yaml by our names."""

from __future__ import annotations

from pathlib import Path

import yaml

from worldloom_rl.config import Json

_NUMBERS = {  # ours: where config.yaml has it
    "groups": "agent.dyn.rssm.stoch",
    "unimix": "agent.dyn.rssm.unimix",
    "free_nats": "agent.dyn.rssm.free_nats",
    "min_std": "agent.policy.minstd",
    "max_std": "agent.policy.maxstd",
    "dynamics_coef": "agent.loss_scales.dyn",
    "representation_coef": "agent.loss_scales.rep",
    "reconstruction_coef": "agent.loss_scales.rec",
    "reward_coef": "agent.loss_scales.rew",
    "continue_coef": "agent.loss_scales.con",
    "actor_coef": "agent.loss_scales.policy",
    "critic_coef": "agent.loss_scales.value",
    "replay_value_coef": "agent.loss_scales.repval",
    "discount_horizon": "agent.horizon",
    "discount_in_continue": "agent.contdisc",
    "horizon": "agent.imag_length",
    "imagination_starts": "agent.imag_last",
    "lambda_": "agent.imag_loss.lam",
    "entropy_coef": "agent.imag_loss.actent",
    "slow_coef": "agent.imag_loss.slowreg",
    "slow_rate": "agent.slowvalue.rate",
    "return_rate": "agent.retnorm.rate",
    "return_limit": "agent.retnorm.limit",
    "learning_rate": "agent.opt.lr",
    "warmup": "agent.opt.warmup",
    "agc": "agent.opt.agc",
    "momentum": "agent.opt.beta1",
    "rms_decay": "agent.opt.beta2",
    "eps": "agent.opt.eps",
    "batch_size": "batch_size",
    "batch_length": "batch_length",
    "replay_context": "replay_context",
}
_NETWORKS = ("dyn.rssm", "enc.simple", "dec.simple", "rewhead", "conhead", "policy", "value")
_FIXED: dict[str, Json] = {  # what our model does in one way only
    **{f"agent.{network}.act": "silu" for network in _NETWORKS},
    **{f"agent.{network}.norm": "rms" for network in _NETWORKS},
    "agent.dyn.rssm.absolute": False,
    "agent.dyn.rssm.dynlayers": 1,
    "agent.enc.simple.symlog": True,
    "agent.enc.simple.outer": False,
    "agent.enc.simple.strided": False,
    "agent.enc.simple.kernel": 5,
    "agent.enc.simple.mults": [2, 3, 4, 4],
    "agent.dec.simple.outer": False,
    "agent.dec.simple.strided": False,
    "agent.dec.simple.kernel": 5,
    "agent.dec.simple.mults": [2, 3, 4, 4],
    "agent.dec.simple.bspace": 8,
    "agent.rewhead.output": "symexp_twohot",
    "agent.value.output": "symexp_twohot",
    "agent.policy_dist_cont": "bounded_normal",
    "agent.policy_dist_disc": "categorical",
    "agent.retnorm.impl": "perc",
    "agent.retnorm.debias": False,
    "agent.valnorm.impl": "none",
    "agent.advnorm.impl": "none",
    "agent.conhead.output": "binary",
    "agent.slowvalue.every": 1,
    "agent.imag_loss.slowtar": False,
    "agent.repl_loss.slowtar": False,
    "agent.repval_loss": True,
    "agent.repval_grad": True,
    "agent.reward_grad": True,
    "agent.ac_grads": False,
    "agent.opt.momentum": True,
    "agent.opt.schedule": "const",
    "agent.opt.wd": 0.0,
}


_LARGEST_FILE = 2**16  # bytes; official files have 8,000
_DEEPEST = 16  # collections in collections; official files have 5. The parser's time grows with their square


def read_config(file: Path) -> dict[str, Json]:
    """The numbers that a run's config.yaml tells, by our names. Raises ValueError for a setting that we don't have."""
    if file.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{file} is larger than {_LARGEST_FILE} bytes; it is no configuration of a DreamerV3 run.")
    try:
        text = file.read_text()
        _refuse_bombs(text)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no text, or a number of many digits
        raise ValueError(f"{file} is not the configuration of a DreamerV3 run: {str(error)[:200]}") from error
    try:
        return _numbers(content, file)
    except (TypeError, ArithmeticError) as error:
        raise ValueError(f"{file} is not the configuration of a DreamerV3 run: {str(error)[:200]}") from error


def _refuse_bombs(text: str) -> None:
    """Raise YAMLError for small files that grow: deep ones, and an alias inside of what an alias may name."""
    anchored: list[bool] = []
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            anchored.append(event.anchor is not None)
            if len(anchored) > _DEEPEST:
                raise yaml.YAMLError(f"it is nested deeper than {_DEEPEST}")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchored.pop()
        elif isinstance(event, yaml.AliasEvent) and any(anchored):
            raise yaml.YAMLError("it has an alias inside of what another alias names")


def _numbers(content: Json, file: Path) -> dict[str, Json]:
    def entry(path: str) -> Json:
        value = content
        for name in path.split("."):
            if not isinstance(value, dict) or name not in value:
                raise ValueError(f"{file} lacks {path!r}, which every configuration of a DreamerV3 run has.")
            value = value[name]
        return value

    for path, only in _FIXED.items():
        if entry(path) != only:
            raise ValueError(f"{file} has {path} = {entry(path)!r:.100}; this library knows {only!r} only.")
    for name in ("lam", "slowreg"):  # one number of ours serves both losses of the critic
        imagined, replayed = entry(f"agent.imag_loss.{name}"), entry(f"agent.repl_loss.{name}")
        if imagined != replayed:
            raise ValueError(
                f"{file} has {name} = {imagined!r:.100} in imag_loss and {replayed!r:.100} in repl_loss; this library "
                "has one number for both."
            )
    numbers = {ours: entry(path) for ours, path in _NUMBERS.items()}
    ratio, size, length = entry("run.train_ratio"), numbers["batch_size"], numbers["batch_length"]
    if not all(isinstance(value, int | float) and value > 0 for value in (ratio, size, length)):
        raise ValueError(f"{file} should have positive numbers for run.train_ratio, batch_size and batch_length.")
    numbers["updates_per_step"] = ratio / (size * length)
    return {name: float(value) if isinstance(value, str) else value for name, value in numbers.items()}
