"""One thread for all tests: bitwise claims hold there, and small tensors gain nothing from more."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Generator, Iterator

import pytest
import torch

os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()  # what tests name is not remembered as this user's

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """`-n auto` is a worker a core, up to eight: each imports torch and holds a gigabyte."""
    workers = yield
    return min(workers, 8)


@pytest.fixture
def fork_server() -> Iterator[None]:
    """New processes are forks of one that has imported what they need, as one import of it takes longer than a test."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_forkserver_preload(
        ["torchrl.collectors", "torchrl.envs", "worldloom_rl.recipes.dreamerv3", "worldloom_rl.recipes.tdmpc2"]
    )
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)
