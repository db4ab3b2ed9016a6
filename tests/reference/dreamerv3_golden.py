"""The golden files of the official DreamerV3, which shared/reference/dreamerv3/README.md describes.

Those in $WORLDLOOM_REFERENCE_DIR/dreamerv3 take the place of tests/reference/data/dreamerv3. A test is run for a
section of a file, and must read every tensor of it or say why it does not.
"""

from __future__ import annotations

import ast
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(os.environ.get("WORLDLOOM_REFERENCE_DIR", Path(__file__).parent / "data")) / "dreamerv3"
FILES = sorted(ROOT.glob("*.safetensors"))


class Golden:
    """One file: its tensors by name, and its metadata, of which Python literals are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with safe_open(path, framework="pt") as content:
            self.metadata = {name: _literal(text) for name, text in content.metadata().items()}
            self.names = sorted(content.keys())

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path)

    def below(self, folder: str) -> dict[str, Tensor]:
        """The tensors of a folder by their names in it, whoever checks them."""
        start = folder + "/"
        return {name.removeprefix(start): self.tensors[name] for name in self.names if name.startswith(start)}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


GOLDEN = [Golden(path) for path in FILES]


class Section:
    """The tensors of one section; remembers which were asked for."""

    def __init__(self, golden: Golden, name: str) -> None:
        self.golden = golden
        self.name = name
        self.left = {full for full in golden.names if full.startswith(name + "/")}

    def __contains__(self, name: str) -> bool:
        return f"{self.name}/{name}" in self.golden.tensors

    def __getitem__(self, name: str) -> Tensor:
        self.left.discard(f"{self.name}/{name}")
        return self.golden.tensors[f"{self.name}/{name}"]

    def below(self, folder: str = "") -> dict[str, Tensor]:
        """The tensors of a folder, or of all, by their names in it."""
        start = f"{self.name}/{folder}/" if folder else f"{self.name}/"
        found = {full.removeprefix(start) for full in self.golden.names if full.startswith(start)}
        return {name: self[f"{folder}/{name}" if folder else name] for name in sorted(found)}

    def exclude(self, pattern: str, reason: str) -> None:
        """Not compared, for the reason given: the tensors whose names match the whole pattern."""
        assert reason
        self.left = {full for full in self.left if not re.fullmatch(pattern, full.removeprefix(self.name + "/"))}


def section_of(name: str) -> str:
    """fn/symlog/x → fn/symlog, opt_const/params/a/bias → opt_const."""
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] == "fn" else parts[0]


class Checks:
    """The tests of one module, each for the sections that its pattern matches."""

    def __init__(self) -> None:
        self.patterns: list[str] = []

    def __call__(self, pattern: str) -> Callable[[Callable[[Section], None]], Callable[..., None]]:
        """Run the test for every section of every file whose name matches; it must read each tensor of the section."""
        self.patterns.append(pattern)
        found = [
            (golden, section)
            for golden in GOLDEN
            for section in dict.fromkeys(map(section_of, golden.names))
            if re.fullmatch(pattern, section)
        ]

        def decorate(test: Callable[[Section], None]) -> Callable[..., None]:
            def run(golden: Golden, name: str) -> None:
                section = Section(golden, name)
                test(section)
                left = sorted(section.left)
                assert not left, f"{golden.path.name} holds tensors that {test.__name__} does not look at: {left}"

            run.__name__, run.__doc__ = test.__name__, test.__doc__
            ids = [f"{golden.path.stem}-{name}" for golden, name in found]
            return pytest.mark.parametrize(("golden", "name"), found, ids=ids)(run)

        return decorate

    def unchecked(self, golden: Golden) -> set[str]:
        """Sections of a file that no test of the module takes."""
        sections = set(map(section_of, golden.names))
        return {name for name in sections if not any(re.fullmatch(pattern, name) for pattern in self.patterns)}
