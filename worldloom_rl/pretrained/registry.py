"""Names of families and presets: "tdmpc2:5m" is the preset "5m" of the family "tdmpc2".

A package offers a family by an entry point of the group `worldloom_rl.models` that names the module whose import
registers it; the library's own families are found in the same way. A family is registered by its class
(`register_world_model`), or by the place of its class (`register_family`), which is then imported when it is needed:
to list the presets no model is imported.
"""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from worldloom_rl.config import WorldModelConfig, did_you_mean, name_sizes

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from tensordict import NestedKey
    from torch import Tensor, nn
    from torchrl.data import Composite

    from worldloom_rl.keys import KeyMap

ENTRY_POINT_GROUP = "worldloom_rl.models"

Registered = TypeVar("Registered", bound=type)


class SavableModel(Protocol):
    """A WorldModel as this folder, which stands below it, needs it."""

    @property
    def model_type(self) -> str: ...
    @property
    def config(self) -> WorldModelConfig: ...
    @property
    def key_map(self) -> KeyMap: ...
    @property
    def observation_spec(self) -> Composite: ...
    @property
    def action_spec(self) -> Composite: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> object: ...
    def num_parameters(self) -> int: ...


class ModelClass(Protocol):
    """A WorldModel's class as this folder, which stands below WorldModel, needs it."""

    __qualname__: str

    def __call__(
        self,
        config: WorldModelConfig,
        observation_spec: Composite,
        action_spec: Composite,
        key_map: Mapping[str, NestedKey] | None = None,
        /,
        **parts: nn.Module,
    ) -> SavableModel: ...

    def default_specs(self) -> tuple[Composite, Composite]: ...


@dataclass(frozen=True)
class Family:
    """A registered family: its configuration class, its named configurations, and its model class or the place of it.

    Args:
        place: "package.module:Class".
    """

    name: str
    config_class: type[WorldModelConfig]
    presets: Mapping[str, WorldModelConfig]
    place: str
    found: type | None = None

    @property
    def model_class(self) -> ModelClass:
        """The WorldModel's class, imported if need be."""
        if self.found is not None:
            return cast("ModelClass", self.found)
        module, _, name = self.place.partition(":")
        return cast("ModelClass", getattr(importlib.import_module(module), name))


_families: dict[str, Family] = {}


def register_family(
    name: str, config_class: type[WorldModelConfig], presets: Mapping[str, WorldModelConfig], place: str
) -> None:
    """Makes a family known under `name`, with presets as "name:preset", without importing its model.

    Args:
        presets: every family has one that is called "tiny".
        place: of the WorldModel's class, "package.module:Class".
    Raises ValueError if there is no preset "tiny", or if the name is taken by another class.
    """
    _register(Family(name, config_class, dict(presets), place))


def register_world_model(
    name: str, config_class: type[WorldModelConfig], presets: Mapping[str, WorldModelConfig]
) -> Callable[[Registered], Registered]:
    """Class decorator: makes a WorldModel known under `name`, its `model_type`, with presets as "name:preset".

    Every family has a preset "tiny". Raises ValueError if the name is taken by another class.
    """
    _require_tiny(name, presets)

    def register(model_class: Registered) -> Registered:
        place = f"{model_class.__module__}:{model_class.__qualname__}"
        _register(Family(name, config_class, dict(presets), place, model_class))
        model_class.model_type = name  # type: ignore[attr-defined]
        return model_class

    return register


def _require_tiny(name: str, presets: Mapping[str, WorldModelConfig]) -> None:
    if "tiny" not in presets:
        raise ValueError(f"The family {name!r} lacks the preset 'tiny', which tests and quick starts use.")


def _register(family: Family) -> None:
    _require_tiny(family.name, family.presets)
    taken = _families.get(family.name)
    # A reloaded module makes its class anew, and one that is run as a script has another name: the same qualified name
    # is taken for the same class.
    if taken is not None and taken.place.partition(":")[2] != family.place.partition(":")[2]:
        raise ValueError(f"The family name {family.name!r} is taken by {taken.place}.")
    _families[family.name] = family
    name_sizes(family.config_class, family.presets)


def _installed() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # here, since it takes longer than all else in this file

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def find_family(name: str) -> Family:
    """The family of that name, importing its module if need be. Raises ValueError with the closest names."""
    if name not in _families:
        installed = _installed()
        if name in installed:
            installed[name].load()
    if name not in _families:
        raise ValueError(f"No world model family is named {name!r}.{did_you_mean(name, {*_families, *_installed()})}")
    return _families[name]


def find_preset(name: str) -> tuple[Family, WorldModelConfig]:
    """The family and configuration that "family:preset" names. Raises ValueError with the closest names."""
    family_name, colon, preset = name.partition(":")
    if not colon:
        raise ValueError(f"A preset is named 'family:preset', got {name!r}.{did_you_mean(name, list_world_models())}")
    family = find_family(family_name)
    if preset not in family.presets:
        known = [f"{family_name}:{known}" for known in family.presets]
        raise ValueError(f"The family {family_name!r} has no preset {preset!r}.{did_you_mean(name, known)}")
    return family, family.presets[preset]


def list_world_models(pattern: str = "*") -> list[str]:
    """All "family:preset" names that match a shell pattern, such as "tdmpc2:*"."""
    names = [
        f"{family}:{preset}" for family in sorted({*_families, *_installed()}) for preset in find_family(family).presets
    ]
    return fnmatch.filter(names, pattern)
