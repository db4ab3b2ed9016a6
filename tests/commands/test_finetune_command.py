"""What `worldloom finetune` makes of a model's configuration and of what it is told, before any weight is read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from worldloom_rl import AutoWorldModel
from worldloom_rl.commands.finetune import fine_tuning
from worldloom_rl.models.dreamerv3 import DreamerV3, DreamerV3Config
from worldloom_rl.models.frozen_jepa import FrozenJEPA, FrozenJEPAConfig
from worldloom_rl.models.jepa import JEPA, JEPAConfig
from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config
from worldloom_rl.pretrained import hub
from worldloom_rl.recipes.finetune_options import FineTuneOptions
from worldloom_rl.recipes.options import DreamerV3RunConfig, JEPARunConfig, RunConfig, TDMPC2RunConfig
from worldloom_rl.tasks import TaskSet

PENDULUM = "Pendulum-v1"
FEW = {"encoder_dim": 8, "mlp_dim": 8, "latent_dim": 8, "num_bins": 3, "task_dim": 4}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved models whose weights are gone."""
    folder = tmp_path_factory.mktemp("described")
    numbers = TDMPC2Config.from_size("tiny", episodic=True, **FEW)
    several = dataclasses.replace(numbers, episodic=False)
    models = {
        "tdmpc2": TDMPC2(numbers, *TDMPC2.default_specs()),
        "several": TDMPC2.for_tasks(several, TaskSet(("dmc:cup-catch", PENDULUM), (8, 3), (2, 1), (500, 200))),
        "dreamerv3": DreamerV3(DreamerV3Config.from_size("tiny"), *DreamerV3.default_specs()),
        "jepa": JEPA(JEPAConfig.from_size("tiny"), *JEPA.default_specs()),
        "frozen_jepa": FrozenJEPA(FrozenJEPAConfig.from_size("tiny"), *FrozenJEPA.default_specs()),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        (folder / name / "model.safetensors").unlink()
    return {name: folder / name for name in models}


def asked(started_from: Path | str, **options: Any) -> FineTuneOptions:
    return FineTuneOptions(started_from=str(started_from), **{"env": PENDULUM, **options})


def run_of(model: Path, recipe: str, config: RunConfig, folder: Path) -> Path:
    """A run's directory, with that model in its one checkpoint."""
    checkpoint = folder / "checkpoints" / "step_000000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model").symlink_to(model)
    (folder / "config.json").write_text(json.dumps({"recipe": recipe, "config": dataclasses.asdict(config)}))
    return folder


def test_the_family_is_known_without_its_weights(described: dict[str, Path]) -> None:
    for family in ("tdmpc2", "dreamerv3", "jepa"):
        recipe, config = fine_tuning(asked(described[family], steps=7, freeze=("encoder",)))
        assert recipe.name == f"{family}-finetune"
        assert isinstance(config, recipe.config_class)
        assert (config.steps, config.freeze, config.preset, config.began_as) == (7, ("encoder",), "saved", ())
    assert fine_tuning(asked(described["tdmpc2"]))[1].episodic  # type: ignore[attr-defined]
    assert fine_tuning(asked(described["several"]))[1].padded_to == (8, 2)  # type: ignore[attr-defined]
    assert fine_tuning(asked(described["jepa"]))[1].image_size == 56  # type: ignore[attr-defined]


def test_of_a_model_on_the_hub_the_configuration_alone_is_asked_for(
    described: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[tuple[str, ...]] = []

    def download(name: str, files: tuple[str, ...], **_: Any) -> Path:
        wanted.append((name, *files))
        return described["several"]

    monkeypatch.setattr(hub, "download", download)
    assert fine_tuning(asked("somebody/model"))[0].name == "tdmpc2-finetune"
    assert wanted == [("somebody/model", "config.json")]


def test_a_run_goes_on_as_it_saw_and_acted_unless_told_otherwise(described: dict[str, Path], tmp_path: Path) -> None:
    before = TDMPC2RunConfig(
        env="dmc:cup-catch", preset="5m", env_kwargs=("a=1",), time_limit=80, rescale_observations=True
    )
    run = run_of(described["tdmpc2"], "tdmpc2", before, tmp_path / "run")
    for path in (run, run / "checkpoints" / "step_000000001" / "model"):
        _, config = fine_tuning(asked(path))
        assert (config.action_repeat, config.rescale_observations, config.pixels) == (2, True, False)
        assert (config.preset, config.env_kwargs, config.time_limit) == ("5m", (), None)
        assert config.found[0] == (f"begins with {path}, with its --action-repeat 2 --no-pixels --rescale-observations")
    _, config = fine_tuning(asked(run, action_repeat=3))
    assert (config.action_repeat, config.rescale_observations) == (3, True)
    assert config.found[0].endswith("with its --no-pixels --rescale-observations, not its --action-repeat 2")
    _, config = fine_tuning(asked(run, inherit=False))
    assert (config.repeat, config.rescale_observations) == (1, None)  # that is found out when the run begins
    assert config.found[0].endswith("with its --no-pixels, not its --action-repeat 2 --rescale-observations")


def test_every_family_inherits_what_its_own_runs_have(described: dict[str, Path], tmp_path: Path) -> None:
    jepa = run_of(described["jepa"], "jepa", JEPARunConfig(data="d", frame_skip=5, image_size=56), tmp_path / "jepa")
    _, config = fine_tuning(asked(jepa, env="", data=("more",)))
    assert (config.frame_skip, config.image_size, config.data) == (5, 56, ("more",))  # type: ignore[attr-defined]
    assert fine_tuning(asked(jepa, frame_skip=2))[1].frame_skip == 2  # type: ignore[attr-defined]
    dreamer = run_of(
        described["dreamerv3"],
        "dreamerv3-offline",
        DreamerV3RunConfig(env="dmc:cup-catch", pixels=True),
        tmp_path / "d",
    )
    _, config = fine_tuning(asked(dreamer))
    assert config.pixels
    assert config.repeat == DreamerV3RunConfig(env="dmc:cup-catch").repeat > 1  # its own, not that of Pendulum-v1
    again = run_of(described["dreamerv3"], "dreamerv3-finetune", config, tmp_path / "again")
    assert fine_tuning(asked(again))[1].repeat == config.repeat


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("frozen_jepa", {}, r"is a model of frozen_jepa; \['dreamerv3', 'jepa', 'tdmpc2'\] are fine-tuned"),
        ("dreamerv3", {"frame_skip": 3}, "--frame-skip is nothing that a fine-tuned dreamerv3 takes"),
        ("tdmpc2", {"bfloat16": True}, "--bfloat16 is nothing that a fine-tuned tdmpc2 takes"),
        ("jepa", {"like": "mean"}, "--like is nothing that a fine-tuned jepa takes"),
        ("tdmpc2", {"env": "", "data": ("a",)}, "env names the environment that the model goes on in"),
        ("tdmpc2", {"data": ("a",), "offline_share": 1.0}, "offline_share must be above 0 and below 1"),
    ],
)
def test_what_does_not_fit_the_family_is_refused(
    model: str, options: dict[str, Any], said: str, described: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=said):
        fine_tuning(asked(described[model], **options))


def test_only_what_somebody_saved_is_described(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tdmpc2:tiny is a preset, whose weights are fresh"):
        AutoWorldModel.describe("tdmpc2:tiny")
    with pytest.raises(FileNotFoundError, match="is neither a directory nor a preset"):
        AutoWorldModel.describe(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        AutoWorldModel.describe(tmp_path)
    with pytest.raises(ValueError, match="it is missing, and so is data"):
        asked("run", env="")
