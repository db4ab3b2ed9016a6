"""The package's names among gymnasium's, without importing gymnasium: by themselves as soon as somebody else does."""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MODULE = "gymnasium"
_DREAM, _ENVS = "worldloom_rl.commands.dream", "worldloom_rl.envs"
_NAMES: Mapping[str, Mapping[str, str | int]] = {
    "worldloom/Dream-v0": {"entry_point": f"{_DREAM}:make_dream", "vector_entry_point": f"{_DREAM}:make_dreams"},
    # each one's EPISODE_STEPS, without its import
    "worldloom/Catch-v0": {"entry_point": f"{_ENVS}.catch:Catch", "max_episode_steps": 59},
    "worldloom/Door-v0": {"entry_point": f"{_ENVS}.door:Door", "max_episode_steps": 50},
    "worldloom/PointRoom-v0": {"entry_point": f"{_ENVS}.point_room:PointRoom", "max_episode_steps": 20},
    "worldloom/Recall-v0": {"entry_point": f"{_ENVS}.recall:Recall", "max_episode_steps": 15},
}


def register_names() -> None:
    """Makes the names known to gymnasium, now if it is imported, else when it is."""
    if _MODULE in sys.modules:
        _register(sys.modules[_MODULE])
    else:
        sys.meta_path.insert(0, _WhenImported())


def _register(gymnasium: ModuleType) -> None:
    for name, places in _NAMES.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, **places)


class _WhenImported(MetaPathFinder):
    """Finds gymnasium as others do, and registers at the end of its import; a find need not be followed by one."""

    def __init__(self) -> None:
        self._asks = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _MODULE or self._asks:
            return None
        self._asks = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asks = False
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register(module)

        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec
