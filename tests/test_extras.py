"""Packages of the extras that are missing are named with what needs them and how to install them."""

from __future__ import annotations

import sys

import pytest

from worldloom_rl.extras import require, require_installed


def test_a_package_that_is_there_is_given():
    assert require("json", extra="none", why="nobody") is sys.modules["json"]
    require_installed("json", extra="none", why="nobody")


@pytest.mark.parametrize("ask", [require, require_installed])
def test_a_missing_package_is_named_with_the_command(ask):
    with pytest.raises(ImportError, match=r"^Looms need no_such_loom: pip install 'worldloom-rl\[loom\]'\.$"):
        ask("no_such_loom", extra="loom", why="Looms need no_such_loom")


def test_a_package_that_is_there_and_broken_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "broken_loom.py").write_text("raise ImportError('the shared library is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"^the shared library is missing$"):
        require("broken_loom", extra="loom", why="Looms need broken_loom")
