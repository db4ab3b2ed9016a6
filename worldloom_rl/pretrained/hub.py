"""World models on the Hugging Face hub: download, upload, model card. Its file names and contents come from callers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import cast

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from worldloom_rl.config import Json
from worldloom_rl.functional.statistics import bootstrap_interval, mean_of_rows

LIBRARY = "worldloom-rl"

# A request without any answer. The client changed its HTTP library more than once; this is that library's base class.
_NoAnswer = cast("type[Exception]", HfHubHTTPError.__mro__[1])


def is_hub_id(name: str) -> bool:
    """Whether a name has the form "organization/name" that the hub takes."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def download(
    repo_id: str, files: Sequence[str], *, revision: str | None, local_files_only: bool, cache_dir: str | Path | None
) -> Path:
    """The directory in the hub's cache that holds those files, and no others, of a repository at a revision.

    A revision is a branch, a tag or a full commit hash. When the hub can't be reached, what the cache has is taken.
    Raises FileNotFoundError, PermissionError or ConnectionError, saying what to do.
    """
    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            local_files_only=local_files_only,
            cache_dir=cache_dir,
            allow_patterns=list(files),
            library_name=LIBRARY,
            library_version=version(LIBRARY),
        )
    except LocalEntryNotFoundError as error:
        why = "local_files_only=True was given" if local_files_only else "the hub gave no usable answer"
        raise FileNotFoundError(
            f"{repo_id!r} at revision {revision or 'main'!r} is not in the cache, and {why}. "
            "Load it once while connected and without local_files_only, or name the cache_dir that holds it."
        ) from error
    except HfHubHTTPError as error:
        raise _explained(error, repo_id, revision) from error
    return Path(folder)


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    commit_message: str,
) -> str:
    """The hash of the commit that put a folder's files into a repository, which is made if there is none.

    Args:
        private: of a new repository; None leaves it to the organization.
        token: by default the one of `hf auth login` or of HF_TOKEN.
        revision: branch to commit to, made from the main branch if there is none; by default the main branch.
    Raises ValueError for a malformed name, PermissionError or ConnectionError, saying what to do.
    """
    if not is_hub_id(repo_id):
        raise ValueError(
            f"A model on the hub is named 'organization/name' in letters, digits, '-', '_' and '.', got {repo_id!r}."
        )
    hub = HfApi(token=token, library_name=LIBRARY, library_version=version(LIBRARY))
    try:
        hub.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            hub.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
        )
    except HfHubHTTPError as error:
        raise _explained(error, repo_id, revision) from error
    except (_NoAnswer, OSError) as error:
        raise ConnectionError(
            f"The hub gave no answer while {repo_id!r} was pushed: {error}. Push again when connected; "
            "save_pretrained keeps the model until then."
        ) from error
    return str(commit.oid)


def _explained(error: HfHubHTTPError, repo_id: str, revision: str | None) -> OSError:
    """The built-in exception for an answer of the hub that is an error."""
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(
            f"{repo_id!r} on the hub has no revision {revision!r}; give a branch, a tag or a full commit hash of it."
        )
    if isinstance(error, GatedRepoError):
        return PermissionError(f"{repo_id!r} on the hub is gated: ask for access on its page, then log in.")
    if status in (401, 403):
        return PermissionError(
            f"The hub answered {status} for {repo_id!r}: the token is missing, wrong or without this right, or there "
            "is no such model. Check the name, then run 'hf auth login' or set HF_TOKEN to a token with access to it."
        )
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"There is no directory {repo_id!r} and the hub has no such model, or your token may not see it. "
            "Check the name and whose token is used ('hf auth whoami')."
        )
    return ConnectionError(f"The hub answered {status} for {repo_id!r}: {error}")


# ---------------------------------------------------------------------- the model card


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
        environment = result["config"]["env"]
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
    environment = result["config"]["env"]
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
