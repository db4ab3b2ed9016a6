"""`worldloom import`: an official checkpoint becomes a directory that the library loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from worldloom_rl.commands.ranges import check_settings
from worldloom_rl.models.dreamerv3.config import DreamerV3Config
from worldloom_rl.models.dreamerv3.official.settings import ImportSettings as DreamerV3Settings
from worldloom_rl.models.jepa.config import JEPAConfig
from worldloom_rl.models.jepa.official.settings import ImportSettings as LeWMSettings
from worldloom_rl.models.tdmpc2.config import TDMPC2Config
from worldloom_rl.models.tdmpc2.official.settings import ImportSettings as TDMPC2Settings
from worldloom_rl.models.tdmpc2.official.settings import NewtSettings
from worldloom_rl.models.vjepa2.config import VJEPA2ACConfig
from worldloom_rl.models.vjepa2.official.settings import ImportSettings as VJEPA2Settings

if TYPE_CHECKING:
    from worldloom_rl.world_model import WorldModel

_Path = Annotated[Path, tyro.conf.Positional]
_DREAMERV3, _TDMPC2, _VJEPA2, _LEWM = DreamerV3Settings(), TDMPC2Settings(), VJEPA2Settings(), LeWMSettings()
_NEWT = NewtSettings()


def import_dreamerv3(
    source: _Path, output: _Path, settings: tyro.conf.OmitArgPrefixes[DreamerV3Settings] = _DREAMERV3
) -> None:
    """Turn an official DreamerV3 log directory or agent.pkl into a directory for AutoWorldModel.from_pretrained."""
    check_settings(settings, DreamerV3Config)
    from worldloom_rl.models.dreamerv3.importer import import_checkpoint

    _say_imported(import_checkpoint(source, output, settings), output)


def import_tdmpc2(
    checkpoint: _Path, output: _Path, settings: tyro.conf.OmitArgPrefixes[TDMPC2Settings] = _TDMPC2
) -> None:
    """Turn an official TD-MPC2 checkpoint (.pt) into a directory for AutoWorldModel.from_pretrained."""
    check_settings(settings, TDMPC2Config)
    from worldloom_rl.models.tdmpc2.importer import import_checkpoint

    _say_imported(import_checkpoint(checkpoint, output, settings), output)


def import_newt(checkpoint: _Path, output: _Path, settings: tyro.conf.OmitArgPrefixes[NewtSettings] = _NEWT) -> None:
    """Turn a checkpoint of newt (.pt) into a directory for AutoWorldModel.from_pretrained."""
    check_settings(settings, TDMPC2Config)
    from worldloom_rl.models.tdmpc2.newt_importer import import_checkpoint

    _say_imported(import_checkpoint(checkpoint, output, settings), output)


def import_vjepa2(
    checkpoint: _Path, output: _Path, settings: tyro.conf.OmitArgPrefixes[VJEPA2Settings] = _VJEPA2
) -> None:
    """Turn an official V-JEPA 2 checkpoint (.pt) into a directory: a world model or, of pre-training, an encoder."""
    check_settings(settings, VJEPA2ACConfig)
    from worldloom_rl.models.vjepa2.encoder import VJEPA2Encoder
    from worldloom_rl.models.vjepa2.importer import import_checkpoint

    model = import_checkpoint(checkpoint, output, settings)
    if isinstance(model, VJEPA2Encoder):
        print(f"Wrote {output}: an encoder of {sum(x.numel() for x in model.encoder.parameters()):,} parameters.")
        print(f'Load it: VJEPA2Encoder.from_pretrained("{output}")')
    else:
        _say_imported(model, output)


def import_lewm(checkpoint: _Path, output: _Path, settings: tyro.conf.OmitArgPrefixes[LeWMSettings] = _LEWM) -> None:
    """Turn LeWM's config.json and weights.pt (their directory) into a directory for AutoWorldModel.from_pretrained."""
    check_settings(settings, JEPAConfig)
    from worldloom_rl.models.jepa.importer import import_checkpoint

    _say_imported(import_checkpoint(checkpoint, output, settings), output)


def _say_imported(model: WorldModel, output: Path) -> None:
    print(f"Wrote {output}: {model.num_parameters():,} parameters.")
    print(f'Load it: AutoWorldModel.from_pretrained("{output}")')
