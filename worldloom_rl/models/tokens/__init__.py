"""A token world model: a quantised image tokenizer and a causal transformer; importing it registers "tokens"."""

from worldloom_rl.models.tokens.config import TokensConfig as TokensConfig
from worldloom_rl.models.tokens.model import TokenWorldModel as TokenWorldModel
from worldloom_rl.models.tokens.policy import make_policy as make_policy
