"""One thread for all tests: bitwise claims hold there, and small tensors gain nothing from more."""

from __future__ import annotations

import os
import tempfile

import torch

os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()  # what tests name is not remembered as this user's

torch.set_num_threads(1)
