"""Checkpoint files that are damaged or hostile are refused with their name and a remedy, fast and in little memory."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from worldloom_rl import AutoWorldModel, list_world_models
from worldloom_rl.pretrained.format import load_world_model
from worldloom_rl.pretrained.registry import find_preset

FAMILIES = ("dreamerv3", "tdmpc2")
REMEDY = "copy them again or save the model anew"


def save(family: str, folder: Path) -> Path:
    found, config = find_preset(f"{family}:tiny")
    found.model_class(config, *found.model_class.default_specs()).save_pretrained(folder)
    return folder


@pytest.fixture(params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save(request.param, tmp_path / "model")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def refusal(folder: Path, name: str) -> str:
    """The message, which names the file."""
    with pytest.raises((ValueError, OSError)) as refused:
        load_world_model(folder)
    assert str(folder / name) in str(refused.value)
    return str(refused.value)


# ---------------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["config"].update(surprise=1),
        lambda config: config["config"].update({"__class__": "subprocess.Popen"}),
        lambda config: config["config"].update(_target_="os.system"),
        lambda config: config.update(model_type="os:system"),
        lambda config: config.update(model_type="worldloom_rl.models.tdmpc2.model.TDMPC2"),
        lambda config: config.update(model_type="../../family"),
    ],
    ids=["unknown field", "class", "target", "entry point", "class path", "path"],
)
def test_a_field_that_no_model_has_or_a_class_path_is_refused(saved, change):
    edit(saved, change)
    message = refusal(saved, "config.json")
    assert REMEDY in message
    assert "has no field" in message or "No world model family is named" in message


def test_code_beside_the_configuration_is_not_asked_for(saved):
    edit(saved, lambda config: config.update(auto_map={"AutoModel": "modeling.Model"}))
    (saved / "modeling.py").write_text("raise SystemExit('ran')")
    assert "must have exactly the fields" in refusal(saved, "config.json")


def test_the_configuration_of_another_family_is_refused(saved):
    kind = json.loads((saved / "config.json").read_text())["model_type"]
    (other,) = set(FAMILIES) - {kind}
    edit(saved, lambda config: config.update(model_type=other))
    message = refusal(saved, "config.json")
    assert "Config has no field" in message
    assert REMEDY in message


def test_the_weights_of_another_family_are_refused(saved, tmp_path):
    (other,) = set(FAMILIES) - {json.loads((saved / "config.json").read_text())["model_type"]}
    weights = save(other, tmp_path / "other") / "model.safetensors"
    weights.rename(saved / "model.safetensors")
    message = refusal(saved, "model.safetensors")
    assert "lacks the tensor" in message
    assert REMEDY in message


@pytest.mark.parametrize(
    "text", ["{", '{"a": 1,}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\x00"], ids=lambda text: text[:9]
)
def test_what_is_no_json_is_refused_with_the_remedy(saved, text):
    (saved / "config.json").write_text(text)
    message = refusal(saved, "config.json")
    assert "is not JSON" in message
    assert REMEDY in message


def numbers(config: dict[str, Any]) -> list[str]:
    return [name for name, value in config.items() if isinstance(value, int | float) and not isinstance(value, bool)]


def test_a_field_that_stands_twice_is_refused(saved):
    path = saved / "config.json"
    path.write_text(path.read_text().replace('"format_version"', '"format_version": 0, "format_version"', 1))
    assert "'format_version' occurs twice" in refusal(saved, "config.json")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_of_a_configuration_may_be_nan_or_infinite(saved, value):
    config = json.loads((saved / "config.json").read_text())["config"]
    for name in numbers(config):
        edit(saved, lambda found, name=name: found.update(config={**config, name: value}))
        assert name in refusal(saved, "config.json")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", ["1", None, [1], {}, True, -(2**70), 1e300], ids=str)
def test_every_number_of_a_configuration_has_a_range(family, value):
    """Also where the configuration is made in Python, where nothing is read from a file."""
    config = find_preset(f"{family}:tiny")[1]
    for name in numbers(config.to_json()):
        with pytest.raises(ValueError, match=name):
            dataclasses.replace(config, **{name: value})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key)
        yield from places(inner, (*path, key))


JUNK = (
    None, True, 0, -1, 2**70, 0.5, 1e308, math.nan, -math.inf, "", "x", "nn.Module", [], [[[]]], [0, "x"], [2**20] * 9,
    {}, {"x": 1},
)  # fmt: skip


@pytest.mark.parametrize("preset", list_world_models("*:tiny"))
def test_whatever_stands_anywhere_in_a_configuration_it_is_read_or_refused_by_file(preset, tmp_path):
    folder = save(preset.partition(":")[0], tmp_path / "model")
    original = json.loads((folder / "config.json").read_text())
    drawn = random.Random(0)
    refusals = []
    for path in places(original):
        for junk in drawn.sample(JUNK, 3):
            config = copy.deepcopy(original)
            inside = config
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = junk
            (folder / "config.json").write_text(json.dumps(config))
            try:
                load_world_model(folder)
            except ValueError as error:
                refusals.append(str(error))
    assert len(refusals) > 100
    assert all(str(folder) in message and len(message) < 5000 for message in refusals), refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda leaf: leaf.update(key="action"), "a key is a list of its parts"),
        (lambda leaf: leaf.update(key=["a"] * 100), "a key is a list of its parts"),
        (lambda leaf: leaf.update(key=["a", 3]), "incomplete or wrong"),
        (lambda leaf: leaf.update(dtype="qint8"), "unknown dtype 'qint8'"),
        (lambda leaf: leaf.update(shape=[1] * 1000), "absurd shape"),
        (lambda leaf: leaf.update(low=1.0, high=-1.0), "low must not exceed high"),
        (lambda leaf: leaf.update(low=math.nan), "low must not exceed high"),
        (lambda leaf: leaf.update(low=2**70, dtype="int64"), "incomplete or wrong"),
    ],
)
def test_a_wrong_description_of_an_action_is_refused(saved, change, message):
    edit(saved, lambda config: change(config["action_spec"]["leaves"][0]))
    assert message in refusal(saved, "config.json")


def test_one_key_for_two_leaves_is_refused(saved):
    edit(saved, lambda config: config["action_spec"]["leaves"].append(config["action_spec"]["leaves"][0]))
    assert "its key stands there twice" in refusal(saved, "config.json")


# ---------------------------------------------------------------------- the weights


@pytest.mark.parametrize("new_zip", [True, False])
def test_a_pickle_by_the_name_of_safetensors_is_not_read(saved, tmp_path, new_zip):
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"weight": Payload()}, saved / "model.safetensors", _use_new_zipfile_serialization=new_zip)
    message = refusal(saved, "model.safetensors")
    assert "It begins as a pickle does" in message
    assert "worldloom import" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, -1])
def test_truncated_weights_are_refused_with_the_remedy(saved, kept):
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    message = refusal(saved, "model.safetensors")
    assert "is not a readable safetensors file" in message
    assert REMEDY in message


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_weights_that_are_not_finite_are_refused(saved, value):
    weights = load_world_model(saved).state_dict()
    name, tensor = next((name, tensor) for name, tensor in weights.items() if tensor.dim() == 2)
    tensor[-1, -1] = value
    save_file(weights, saved / "model.safetensors")
    message = refusal(saved, "model.safetensors")
    assert f"{name!r} holds values that are not finite" in message
    assert "earlier checkpoint" in message


@pytest.mark.parametrize("wrong", ["missing", "extra", "mis-shaped"])
def test_wrong_tensors_are_refused_with_the_remedy(saved, wrong):
    weights = load_world_model(saved).state_dict()
    name = next(name for name, tensor in weights.items() if tensor.dim() == 2)
    tensor = weights.pop(name)
    weights |= {"missing": {}, "extra": {name: tensor, "extra": torch.zeros(2)}, "mis-shaped": {name: tensor[:, :-1]}}[
        wrong
    ]
    save_file({key: value.contiguous() for key, value in weights.items()}, saved / "model.safetensors")
    message = refusal(saved, "model.safetensors")
    assert ("extra" if wrong == "extra" else name) in message
    assert REMEDY in message


# ---------------------------------------------------------------------- what is no file


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_directory_in_place_of_a_file_is_refused(saved, name):
    (saved / name).unlink()
    (saved / name).mkdir()
    assert "is a directory, not a file" in refusal(saved, name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_to_nothing_is_refused(saved, name):
    (saved / name).unlink()
    (saved / name).symlink_to("../gone")
    assert "is a link to '../gone', where no file is; put the file itself" in refusal(saved, name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("device", ["/dev/zero", "pipe"])
def test_a_device_or_a_pipe_in_place_of_a_file_is_not_opened(saved, name, device):
    (saved / name).unlink()
    if device == "pipe":
        os.mkfifo(saved / name)
    else:
        (saved / name).symlink_to(device)
    with pytest.raises(OSError, match=r"is no regular file|where no file is") as refused:
        AutoWorldModel.from_pretrained(saved)
    assert str(saved / name) in str(refused.value)


def test_a_link_to_a_file_is_followed_as_in_the_cache_of_the_hub(saved, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (saved / name).rename(tmp_path / name)
        (saved / name).symlink_to(tmp_path / name)
    load_world_model(saved)


# ---------------------------------------------------------------------- absurd sizes, in a process of their own


def write_header(folder: Path, tensors: dict[str, Any], size: int) -> None:
    """Weights of a header and `size` bytes, which take no room on the disk."""
    header = json.dumps(tensors).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def sparse(file: Path, start: bytes, size: int) -> None:
    with open(file, "wb") as handle:
        handle.write(start)
        handle.truncate(size)


def update(**sizes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda config: config["config"].update(sizes))


def leaves(which: str, *described: dict[str, Any]) -> Callable[[Path], None]:
    def change(config: dict[str, Any]) -> None:
        config[which]["leaves"] = [{"key": [str(i)], "dtype": "float32", **leaf} for i, leaf in enumerate(described)]

    return lambda folder: edit(folder, change)


GIANT = {"giant": {"dtype": "F32", "shape": [50_000, 50_000], "data_offsets": [0, 10**10]}}
WIDE = {"kind": "Bounded", "shape": [2**22], "low": -1.0, "high": 1.0}
ABSURD: dict[str, tuple[str, Callable[[Path], None]]] = {
    "one width": ("dreamerv3", update(deterministic=2**16)),
    "every width": (
        "dreamerv3",
        update(deterministic=2**16, hidden=2**14, units=2**14, groups=2**12, classes=2**12, depth=2**12, blocks=1),
    ),
    "every depth": (
        "dreamerv3",
        update(**{f"{part}_layers": 64 for part in ("encoder", "decoder", "prior", "posterior", "actor", "critic")}),
    ),
    "ensemble": ("tdmpc2", update(mlp_dim=2**16, latent_dim=2**16, encoder_dim=2**16, num_q=1024, num_channels=2**12)),
    "tasks": ("tdmpc2", update(action_dims=[1] * 10**6)),
    "wide observation": ("tdmpc2", leaves("observation_spec", {**WIDE, "shape": [2**40]})),
    "many wide observations": ("dreamerv3", leaves("observation_spec", *[WIDE] * 1000)),
    "many observations": ("dreamerv3", leaves("observation_spec", *[{**WIDE, "shape": [1]}] * 40_000)),
    "wide action": ("tdmpc2", leaves("action_spec", WIDE)),
    "many wide actions": ("tdmpc2", leaves("action_spec", *[{**WIDE, "shape": [2**16]}] * 100)),
    "classes of actions": (
        "dreamerv3",
        leaves("action_spec", {"kind": "Categorical", "n": 2**20, "shape": [2**16], "dtype": "int8"}),
    ),
    "categorical actions": (
        "dreamerv3",
        leaves("action_spec", {"kind": "Categorical", "n": 2, "shape": [2**25], "dtype": "int8"}),
    ),
    "several choices": (
        "dreamerv3",
        leaves("action_spec", {"kind": "MultiCategorical", "n": [2**20] * 4096, "shape": [4096], "dtype": "int64"}),
    ),
    "choices without end": (
        "dreamerv3",
        leaves("action_spec", {"kind": "MultiOneHot", "n": [2] * 10**6, "shape": [2 * 10**6], "dtype": "int8"}),
    ),
    "declared tensor": ("tdmpc2", lambda folder: write_header(folder, GIANT, 100)),
    "tensor of zeros": ("tdmpc2", lambda folder: write_header(folder, GIANT, 10**10)),
    "long header": (
        "tdmpc2",
        lambda folder: sparse(folder / "model.safetensors", (9 * 10**7).to_bytes(8, "little") + b"{", 10**8),
    ),
    "long configuration": ("tdmpc2", lambda folder: sparse(folder / "config.json", b"{", 10**10)),
    "deep configuration": (
        "tdmpc2",
        lambda folder: (folder / "config.json").write_text('{"a":' * 300_000 + "1" + "}" * 300_000),
    ),
}


def measure(folder: str) -> dict[str, Any]:
    """Of each absurd directory the message, the processor seconds, and the bytes by which the peak of memory grew."""
    root = Path(folder)
    for family in FAMILIES:  # what the first call imports and sets up is not counted
        load_world_model(root / family)
    found = {}
    for name in ABSURD:
        peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            load_world_model(root / name)
            message = "accepted"
        except ValueError as error:
            message = str(error)
        seconds = time.process_time() - start
        found[name] = (message, seconds, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak))
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("absurd")
    for family in FAMILIES:
        save(family, root / family)
    for name, (family, spoil) in ABSURD.items():
        spoil(save(family, root / name))
    program = f"import json, sys, test_hostile_files; json.dump(test_hostile_files.measure({str(root)!r}), sys.stdout)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=Path(__file__).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read as Linux counts it")
@pytest.mark.parametrize("name", ABSURD)
def test_absurd_sizes_are_refused_fast_and_before_memory_is_taken(measured, name):
    message, seconds, growth = measured[name]
    assert f"{name}/config.json" in message or f"{name}/model.safetensors" in message, message
    assert len(message) < 5000
    assert seconds < 2
    assert growth < 64e6
