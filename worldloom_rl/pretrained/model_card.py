"""The model card of a saved model: README.md with front matter for the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from worldloom_rl.config import Json
from worldloom_rl.functional.statistics import bootstrap_interval, mean_of_rows
from worldloom_rl.pretrained.format import LIBRARY
from worldloom_rl.tasks import trained_on

CARD_FILE = "README.md"


def model_card(repo_id: str, config: Mapping[str, Json], num_parameters: int, result: Mapping[str, Json] | None) -> str:
    """README.md of a model: YAML front matter for the hub, then what it is, how to load it and what it reached.

    Args:
        config: contents of the model's config.json.
        result: contents of a run's result.json, for evaluation and training.
    Raises ValueError for a result that lacks what a card tells.
    """
    tags = ["world-model", "model-based-reinforcement-learning", "torchrl", config["model_type"]]
    evaluations: list[EvalResult] | None = None
    reached = "No evaluation was given when this model was pushed.\n"
    if result is not None:
        _check_result(result)
        environment = trained_on(result["config"])
        tags.append(environment)
        evaluation = _evaluation(result)
        evaluations = [evaluation]
        reached = _told(result, evaluation)
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag="reinforcement-learning",
        tags=tags,
        model_name=repo_id.split("/")[-1],
        eval_results=evaluations,
    )
    rows = [
        f"| {role} | `{'.'.join(leaf['key'])}` | {leaf['kind']} | {leaf['shape']} | {leaf['dtype']} |\n"
        for role, spec in (("observation", "observation_spec"), ("action", "action_spec"))
        for leaf in config[spec]["leaves"]
    ]
    text = (
        f"# {repo_id}\n\n"
        f"A latent world model of the family `{config['model_type']}` with {num_parameters:,} learned parameters, "
        f"saved by {LIBRARY} {config['library_version']}.\n\n"
        "## Load\n\n```python\nfrom worldloom_rl import AutoWorldModel\n\n"
        f'model = AutoWorldModel.from_pretrained("{repo_id}")\n```\n\n'
        "Only `config.json` and `model.safetensors` are read; nothing from this repository is executed.\n\n"
        "## Observations and actions\n\n| role | key | kind | shape | dtype |\n|---|---|---|---|---|\n"
        f"{''.join(rows)}\n"
        f"## Evaluation\n\n{reached}"
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def _check_result(result: Mapping[str, Json]) -> None:
    given = {*result, *(f"config.{name}" for name in result.get("config", {}))}
    for name in ("recipe", "config", "config.env", "config.seed", "agent_steps", "environment_steps", "final_returns"):
        if name not in given:
            raise ValueError(f"The result lacks {name!r}; give the contents of a run's result.json.")
    if not result["final_returns"]:
        raise ValueError("The result's 'final_returns' are empty; give a run whose last evaluation played episodes.")


def _evaluation(result: Mapping[str, Json]) -> EvalResult:
    """The mean return with its interval, seeds and number of episodes, as the hub's model index has it."""
    returns = result["final_returns"]
    environment = trained_on(result["config"])
    return EvalResult(
        task_type="reinforcement-learning",
        task_name="Reinforcement learning",
        dataset_type=environment,
        dataset_name=environment,
        metric_type="mean_return",
        metric_name="Mean return",
        metric_value=_six_digits(sum(returns) / len(returns)),
        metric_args={
            "bootstrap_interval_95": [
                _six_digits(bound) for bound in bootstrap_interval([returns], statistic=mean_of_rows)
            ],
            "seeds": [result["config"]["seed"]],
            "episodes": len(returns),
        },
    )


def _told(result: Mapping[str, Json], evaluation: EvalResult) -> str:
    settings = {name: value for name, value in result["config"].items() if name != "run_directory"}  # a local path
    arguments = cast("dict[str, Json]", evaluation.metric_args)
    low, high = arguments["bootstrap_interval_95"]
    return (
        f"Mean return on `{evaluation.dataset_name}`: **{evaluation.metric_value}**, 95 % bootstrap confidence "
        f"interval [{low}, {high}] over {arguments['episodes']} episodes of one training run, seed "
        f"{arguments['seeds'][0]}. The interval tells the spread of episodes, not that of training runs.\n\n"
        f"## Training\n\nRecipe `{result['recipe']}`, {result['agent_steps']:,} agent steps "
        f"({result['environment_steps']:,} environment steps), with\n\n"
        f"```json\n{json.dumps(settings, indent=2)}\n```\n"
    )


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")
