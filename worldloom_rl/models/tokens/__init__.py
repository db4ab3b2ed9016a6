"""A token world model: a quantised image tokenizer and a causal transformer; importing it registers "tokens"."""

from typing import TYPE_CHECKING

from worldloom_rl.lazy import lazy_names
from worldloom_rl.models.tokens.config import PRESETS
from worldloom_rl.models.tokens.config import TokensConfig as TokensConfig
from worldloom_rl.pretrained.registry import register_family

if TYPE_CHECKING:
    from worldloom_rl.models.tokens.model import TokenWorldModel as TokenWorldModel
    from worldloom_rl.models.tokens.policy import make_policy as make_policy
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".config": ["TokensConfig"],
            ".model": ["TokenWorldModel"],
            ".policy": ["make_policy"],
        },
    )

register_family("tokens", TokensConfig, PRESETS, "worldloom_rl.models.tokens.model:TokenWorldModel")
