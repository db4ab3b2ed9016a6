"""Official DreamerV3 checkpoints come in whole or not at all."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dreamerv3_golden import GOLDEN, ROOT

from worldloom_rl import AutoWorldModel
from worldloom_rl.cli import main
from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.models.dreamerv3.importer import ImportSettings, import_checkpoint
from worldloom_rl.models.dreamerv3.official.names import counterparts
from worldloom_rl.noise import ModeNoise

DEBUG = ROOT / "example_ckpt_debug"  # images, categories, vectors and two actions, with its config.yaml
PROPRIO = ROOT / "example_ckpt_public_proprio"  # the parameters of golden_public_proprio
SETTINGS = ImportSettings(groups=4)

Arrays = dict[str, Any]

pytestmark = pytest.mark.skipif(not DEBUG.is_dir(), reason=f"{ROOT} holds no example checkpoints.")


def agent_of(logdir: Path) -> Path:
    return logdir / "ckpt" / (logdir / "ckpt" / "latest").read_text().strip() / "agent.pkl"


def arrays_of(logdir: Path) -> dict[str, Any]:
    return pickle.loads(agent_of(logdir).read_bytes())


@pytest.fixture
def logdir(tmp_path: Path) -> Path:
    """A log directory to spoil."""
    return Path(shutil.copytree(PROPRIO, tmp_path / "logdir"))


def refuse(source: Path, output: Path, match: str, settings: ImportSettings = SETTINGS) -> None:
    """The import must fail with a message that holds `match`, and leave nothing behind."""
    before = set(output.parent.iterdir())
    with pytest.raises(ValueError, match=re.escape(match)):
        import_checkpoint(source, output, settings)
    assert set(output.parent.iterdir()) == before


def test_an_imported_checkpoint_gives_the_golden_outputs(tmp_path: Path) -> None:
    import_checkpoint(PROPRIO, tmp_path / "model", SETTINGS)
    model = AutoWorldModel.from_pretrained(tmp_path / "model").eval()
    assert isinstance(model, DreamerV3)
    (golden,) = (golden for golden in GOLDEN if golden.path.stem == "golden_public_proprio")
    for part in counterparts(model):
        assert torch.equal(part.save(model.state_dict()[part.ours]), golden.tensors[f"param/{part.official}"]), part
    with torch.no_grad():
        section = golden.below("observe_mode")
        latent = {"deterministic": section["deter"], "stochastic": section["stoch"]}
        features = model.latent_features(latent)
        heads = golden.below("heads")
        torch.testing.assert_close(features, heads["input"], rtol=2e-5, atol=1e-5)
        reward, value = model.reward_head(features), model.behavior.critic(features)
        torch.testing.assert_close(reward, heads["rew/logits"], rtol=2e-5, atol=1e-5)
        torch.testing.assert_close(value, heads["val/logits"], rtol=2e-5, atol=1e-5)
        torch.testing.assert_close(model.behavior.actor(features).location, heads["pol/mean"], rtol=2e-5, atol=1e-5)
        imagined, start = golden.below("imagine_mode"), golden.below("imagine")
        carry = {"deterministic": start["start/deter"], "stochastic": start["start/stoch"]}
        arrived = model.predict_latent(carry, start["actions"][:, 0], ModeNoise()).latent
        torch.testing.assert_close(arrived["deterministic"], imagined["deter"][:, 0], rtol=2e-5, atol=1e-5)


def test_sizes_come_from_the_arrays_and_numbers_from_config_yaml(tmp_path: Path) -> None:
    model = import_checkpoint(DEBUG, tmp_path / "model", ImportSettings(shapes=("int2d=2x3", "float2d=4x5")))
    config = model.config
    assert (config.groups, config.classes, config.deterministic, config.hidden) == (2, 4, 8, 3)
    assert (config.units, config.depth, config.blocks, config.num_bins) == (8, 2, 4, 5)
    assert (config.batch_size, config.batch_length, config.updates_per_step) == (8, 10, 8 / 80)
    shapes = {key: tuple(leaf.shape) for key, leaf in model.observation_spec.items()}
    assert shapes == {
        "count": (1,), "float2d": (4, 5), "int2d": (2, 3), "pixels": (3, 64, 64), "token": (), "vector": (7,),
    }  # fmt: skip
    assert (model.observation_spec["int2d"].space.n, model.observation_spec["token"].space.n) == (4, 256)
    assert set(model.action_keys) == {"act_cont", "act_disc"}


@pytest.mark.parametrize("inner", ["", "ckpt", "ckpt/agent"], ids=["agent.pkl", "latest", "parallel"])
def test_a_log_directory_a_folder_of_checkpoints_and_a_file_are_found(inner: str, tmp_path: Path) -> None:
    folder = tmp_path / "logdir" / inner / "20260101T000000F000000" if inner else tmp_path / "logdir"
    folder.mkdir(parents=True)
    shutil.copyfile(agent_of(PROPRIO), folder / "agent.pkl")
    if inner:
        (folder.parent / "latest").write_text(folder.name)
        (folder / "done").touch()
    first = import_checkpoint(tmp_path / "logdir", tmp_path / "model", SETTINGS)
    second = import_checkpoint(folder / "agent.pkl", tmp_path / "other", SETTINGS)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_the_command_writes_a_directory_and_says_how_to_load_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["import", "dreamerv3", str(PROPRIO), str(tmp_path / "model"), "--groups", "4"])
    assert f'AutoWorldModel.from_pretrained("{tmp_path / "model"}")' in capsys.readouterr().out
    assert AutoWorldModel.from_pretrained(tmp_path / "model").num_parameters() == 60_334


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "f2", "f8", "without an optimiser"])
def test_any_protocol_and_one_other_precision_give_the_same_model(
    protocol: int, kind: str, logdir: Path, tmp_path: Path
) -> None:
    content = arrays_of(PROPRIO)
    if kind == "without an optimiser":
        content["params"] = {name: x for name, x in content["params"].items() if not name.startswith("opt/")}
    else:
        content["params"] = {name: x.astype(kind) if x.dtype == "f4" else x for name, x in content["params"].items()}
    agent_of(logdir).write_bytes(pickle.dumps(content, protocol=protocol))
    found = import_checkpoint(logdir, tmp_path / "model", SETTINGS).state_dict()
    expected = import_checkpoint(PROPRIO, tmp_path / "other", SETTINGS).state_dict()
    assert all(torch.equal(found[name], x.half().float() if kind == "f2" else x) for name, x in expected.items())


# ------------------------------------------------------------------ what is refused


def extra(arrays: Arrays) -> str:
    arrays["enc/more/kernel"] = np.zeros((2, 2), np.float32)
    return "has the extra array 'enc/more/kernel' of shape (2, 2)"


def missing(arrays: Arrays) -> str:
    del arrays["dyn/obs0/bias"]
    return "lacks 'dyn/obs0/bias'"


def shape(arrays: Arrays) -> str:
    arrays["dyn/dynin1/bias"] = np.zeros(7, np.float32)
    return "has 'dyn/dynin1/bias' of shape (7,) where (32,) is needed"


def optimiser(arrays: Arrays) -> str:
    del arrays["opt/state/2/1/con/head/logit/bias"]
    return "lacks 'opt/state/2/1/con/head/logit/bias'"


def kind(arrays: Arrays) -> str:
    arrays["dyn/obs0/bias"] = arrays["dyn/obs0/bias"].astype(np.int32)
    return "has 'dyn/obs0/bias' of type int32 where float32 is needed"


def double(arrays: Arrays) -> str:
    arrays["dyn/obs0/bias"] = arrays["dyn/obs0/bias"].astype(np.float64)
    return "'dyn/obs0/bias' of type float64"


def no_array(arrays: Arrays) -> str:
    arrays["dyn/obs0/bias"] = [0.0] * 32
    return "'dyn/obs0/bias' of type list"


@pytest.mark.parametrize("spoil", [extra, missing, shape, optimiser, kind, double, no_array])
def test_a_spoilt_checkpoint_is_refused_by_the_name_of_its_entry(
    spoil: Callable[[Arrays], str], logdir: Path, tmp_path: Path
) -> None:
    content = arrays_of(PROPRIO)
    message = spoil(content["params"])
    agent_of(logdir).write_bytes(pickle.dumps(content, protocol=4))
    refuse(logdir, tmp_path / "model", message)


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


def test_a_pickled_call_is_refused_by_name_and_not_made(logdir: Path, tmp_path: Path) -> None:
    witness = tmp_path / "called"
    content = arrays_of(PROPRIO)
    content["counters"]["updates"] = Call(Path.touch, witness)
    agent_of(logdir).write_bytes(pickle.dumps(content, protocol=4))
    refuse(logdir, tmp_path / "model", "it holds the object 'pathlib")
    assert not witness.exists()


def test_an_array_that_asks_for_the_machines_memory_is_refused(logdir: Path, tmp_path: Path) -> None:
    reconstruct = np.zeros(1).__reduce__()[0]
    content = arrays_of(PROPRIO)
    content["params"]["dyn/obs0/bias"] = Call(reconstruct, np.ndarray, (2**40,), b"f")
    agent_of(logdir).write_bytes(pickle.dumps(content, protocol=4))
    refuse(logdir, tmp_path / "model", "an array begins as an empty one")


def test_arrays_that_share_their_numbers_are_refused(logdir: Path, tmp_path: Path) -> None:
    content = arrays_of(PROPRIO)
    shared = np.zeros(10**6, np.float32)
    content["params"] = dict.fromkeys(content["params"], shared)
    agent_of(logdir).write_bytes(pickle.dumps(content, protocol=4))
    refuse(logdir, tmp_path / "model", "arrays that share their numbers")


def test_numbers_that_are_not_finite_are_refused(logdir: Path, tmp_path: Path) -> None:
    content = arrays_of(PROPRIO)
    content["params"]["dyn/obs0/bias"][3] = np.inf
    agent_of(logdir).write_bytes(pickle.dumps(content, protocol=4))
    refuse(logdir, tmp_path / "model", "has 'dyn/obs0/bias' with values that are not finite")


def test_an_output_that_would_be_lost_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        import_checkpoint(tmp_path / "nowhere", tmp_path / "model")
    (tmp_path / "notes").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        import_checkpoint(PROPRIO, tmp_path / "notes", SETTINGS)


def test_what_is_no_checkpoint_is_refused(logdir: Path, tmp_path: Path) -> None:
    agent = agent_of(logdir)
    whole = agent.read_bytes()
    agent.write_bytes(whole[: len(whole) // 2])
    refuse(logdir, tmp_path / "model", "was not loaded")
    agent.write_bytes(pickle.dumps({"params": {}}))
    refuse(logdir, tmp_path / "model", "'params' and 'counters'")
    agent.write_bytes(whole)
    (agent.parent / "done").unlink()
    refuse(logdir, tmp_path / "model", "incomplete")
    for elsewhere in ("../../elsewhere", ".."):
        (logdir / "ckpt" / "latest").write_text(elsewhere)
        refuse(logdir, tmp_path / "model", "the name of a folder")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        import_checkpoint(tmp_path / "nowhere", tmp_path / "model")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ImportSettings(groups=3), "3 groups do not divide"),
        (ImportSettings(groups=4, shapes=("position=2x2",)), "do not fit the shape (2, 2)"),
        (ImportSettings(groups=4, shapes=("elsewhere=2x2",)), "shapes names ['elsewhere']"),
        (ImportSettings(groups=4, shapes=("position",)), 'written "key=2x3"'),
    ],
)
def test_settings_that_contradict_the_arrays_are_refused(
    settings: ImportSettings, message: str, tmp_path: Path
) -> None:
    refuse(PROPRIO, tmp_path / "model", message, settings)


@pytest.mark.parametrize(
    ("line", "other", "message"),
    [
        ("contdisc: true", "other: true", "lacks 'agent.contdisc'"),
        ("absolute: false", "absolute: true", "agent.dyn.rssm.absolute = True"),
        ("value: {act: silu", "value: {act: relu", "agent.value.act = 'relu'"),
        ("repval_grad: true", "repval_grad: false", "agent.repval_grad = False"),
        ("repl_loss: {lam: 0.95", "repl_loss: {lam: 0.9", "lam = 0.95 in imag_loss and 0.9 in repl_loss"),
        ("batch_size: 8", "batch_size: 0", "positive numbers"),
        ("batch_size: 8", "batch_size: [", "is not the configuration"),
        ("batch_size: 8", f"batch_size: {'9' * 400}", "is not the configuration"),
        ("batch_size: 8", f"batch_size: {'9' * 5000}", "is not the configuration"),
        ("batch_size: 8", f"batch_size: {'[' * 50_000}", "is nested deeper than 16"),
        ("batch_size: 8", f"batch_size: 8\nmore: '{'x' * 70_000}'", "is larger than 65536 bytes"),
        ("batch_size: 8", f"batch_size: 8\na: &a [1, 1]\nb: &b [{'*a, ' * 9}]\nc: [{'*b, ' * 9}]", "an alias inside"),
    ],
)
def test_a_configuration_that_is_not_ours_is_refused(line: str, other: str, message: str, tmp_path: Path) -> None:
    logdir = Path(shutil.copytree(DEBUG, tmp_path / "logdir"))
    file = logdir / "config.yaml"
    assert line in file.read_text()
    file.write_text(file.read_text().replace(line, other))
    refuse(logdir, tmp_path / "model", message)
