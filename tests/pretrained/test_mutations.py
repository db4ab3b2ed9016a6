"""Files spoilt at random are refused in a sentence, or are what they were: seeded, a few seconds unless asked for more.

`WORLDLOOM_MUTATIONS=5000 pytest tests/pretrained/test_mutations.py` spoils each kind of file so many times.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worldloom_rl.commands.trained import open_run
from worldloom_rl.models.dreamerv3.importer import ImportSettings, _locate, model_from_arrays
from worldloom_rl.models.dreamerv3.official.arrays import read_checkpoint as read_arrays
from worldloom_rl.models.dreamerv3.official.numbers import read_config
from worldloom_rl.models.tdmpc2.importer import model_from_state_dict, read_checkpoint
from worldloom_rl.pretrained.format import load_world_model
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.training import loop

TESTS = Path(__file__).parents[1]
REFERENCE = TESTS / "reference" / "data"
TIMES = int(os.environ.get("WORLDLOOM_MUTATIONS", "12"))

Weights = dict[str, Tensor]
Read = Callable[[Path], Weights]


def spoilt(content: bytes, drawn: random.Random) -> bytes:
    """The content after one to three of the things that happen to files, and that people do to them."""
    changed = bytearray(content)
    for _ in range(drawn.choice((1, 1, 2, 3))):
        start = drawn.randrange(len(changed) + 1)
        stop = min(len(changed), start + drawn.choice((1, 2, 4, 16, 1000)))
        match drawn.randrange(7):
            case 0 if start < len(changed):
                changed[start] ^= 1 << drawn.randrange(8)
            case 1:
                del changed[start:]
            case 2:
                del changed[start:stop]
            case 3:
                changed[start:start] = changed[start:stop]
            case 4:
                changed[start:stop] = bytes(stop - start)
            case 5:
                changed[start:stop] = drawn.randbytes(stop - start)
            case _:
                changed[start:start] = drawn.choice((b"\xff" * 8, b"9" * 400, b"{" * 3000, b"-1", b"NaN", b"\x80\x02."))
    return bytes(changed)


def outcomes(folder: Path, name: str, read: Read) -> tuple[int, int]:
    """How often a spoilt file was refused, and how often it gave other numbers than the whole one."""
    whole, expected = (folder / name).read_bytes(), read(folder)
    said, other = {}, 0
    for seed in range(TIMES):
        (folder / name).write_bytes(spoilt(whole, random.Random(seed)))
        try:
            found = read(folder)
        except (ValueError, OSError) as error:
            said[seed] = str(error)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: a {type(error).__name__}") from error
        else:
            same = found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
            other += not same
    assert [(seed, message) for seed, message in said.items() if len(message) > 1000] == []
    return len(said), other


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_saved_model(tmp_path: Path, name: str) -> None:
    family, config = find_preset("tdmpc2:tiny")
    family.model_class(config, *family.model_class.default_specs()).save_pretrained(tmp_path)
    refused, other = outcomes(tmp_path, name, lambda folder: load_world_model(folder).state_dict())
    assert refused > TIMES // 2
    assert other == 0


@pytest.mark.parametrize("archive", [True, False])
def test_an_official_checkpoint_of_tdmpc2(tmp_path: Path, archive: bool) -> None:
    content = torch.load(REFERENCE / "tdmpc2" / "golden_public_single.pt", weights_only=True)
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=archive)
    read: Read = lambda folder: model_from_state_dict(read_checkpoint(folder / "x.pt")).state_dict()  # noqa: E731
    refused, other = outcomes(tmp_path, "x.pt", read)
    assert refused > TIMES // 3
    assert other == 0 or not archive  # before torch 1.6 there was no checksum


@pytest.mark.parametrize("name", ["agent.pkl", "config.yaml"])
def test_an_official_checkpoint_of_dreamerv3(tmp_path: Path, name: str) -> None:
    agent, config = _locate(REFERENCE / "dreamerv3" / "example_ckpt_debug")
    assert config is not None
    for file in (agent, config):
        shutil.copyfile(file, tmp_path / file.name)
    settings = ImportSettings(shapes=("int2d=2x3", "float2d=4x5"))

    def read(folder: Path) -> Weights:
        numbers = read_config(folder / "config.yaml")
        return model_from_arrays(read_arrays(folder / "agent.pkl"), settings, numbers).state_dict()

    refused, _ = outcomes(tmp_path, name, read)
    assert refused > TIMES // 4


def test_the_configuration_of_a_run(tmp_path: Path) -> None:
    shutil.copytree(TESTS / "saved_by_0_6" / "run-tdmpc2", tmp_path / "run")

    def read(folder: Path) -> Weights:
        loop.read_config(*open_run(folder / "run"))
        return {}

    refused, _ = outcomes(tmp_path, "run/config.json", read)
    assert refused > TIMES // 2
