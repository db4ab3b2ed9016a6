"""The golden files of JEPA, V-JEPA 2 and vector quantisation, found by the beginning of their names.

Those in $WORLDLOOM_REFERENCE_DIR/jepa take the place of tests/reference/data/jepa; they may have other sizes, other
numbers of files and other endings of their names. Sizes come from the tensors and the metadata.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

ROOT = Path(os.environ.get("WORLDLOOM_REFERENCE_DIR", Path(__file__).parent / "data")) / "jepa"


def files(kind: str) -> list[Path]:
    """The files whose names begin with the kind. Raises FileNotFoundError if there is none."""
    found = sorted(ROOT.glob(f"{kind}*.safetensors"))
    if not found:
        raise FileNotFoundError(f"{ROOT} holds no {kind}*.safetensors.")
    return found


def metadata(path: Path) -> dict[str, str]:
    """What a file says of itself."""
    with safe_open(path, framework="pt") as content:
        said: dict[str, str] = content.metadata()
    return said


def close(found: Tensor, expected: Tensor, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Within atol of numbers up to 1, and of larger ones in proportion to the tensor's largest.

    A sum of n numbers of size s rounds by about s √n 2⁻²⁴ wherever it comes near 0, so the largest entry tells what
    the smallest can be off.
    """
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol * max(1.0, largest))
