"""`pytest tests/reference --device cuda`: the official numbers on a GPU, in float32 without TF32.

Everything that a test loads or makes is there then. A GPU adds up in another order: what a CPU must meet more closely
is compared within 1e-4, absolute and relative.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import safetensors.torch
import torch

_GPU = 1e-4


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the reference tests compute, such as cuda")


def pytest_configure(config: pytest.Config) -> None:
    device = config.getoption("--device", default="cpu")  # without it where this folder was not named
    if device == "cpu":
        return
    exact = torch.testing.assert_close

    def assert_close(actual: Any, expected: Any, **options: Any) -> None:
        least = {name: max(options.get(name) or 0.0, _GPU) for name in ("rtol", "atol")}
        exact(actual, expected, **{**options, **least, "check_device": False})

    torch.set_default_device(device)
    torch.backends.cudnn.allow_tf32 = False
    torch.testing.assert_close = assert_close
    safetensors.torch.load_file = partial(safetensors.torch.load_file, device=device)
