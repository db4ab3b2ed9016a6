"""DreamerV3's recurrent state-space model: a deterministic memory, and a stochastic state with prior and posterior.

Reference: Hafner et al. 2023 (arXiv:2301.04104) and danijar/dreamerv3, rssm.py, RSSM.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldloom_rl.functional.precision import at_least_float32
from worldloom_rl.latents import CategoricalLatent, GaussianLatent
from worldloom_rl.models.dreamerv3.block_gru import BlockGRU
from worldloom_rl.nn.mlp import MLP
from worldloom_rl.nn.rms_norm import RMSNormSilu
from worldloom_rl.noise import Noise


class RecurrentState(NamedTuple):
    """The recurrent state, and the raw parameters that its stochastic part was drawn from."""

    deterministic: Tensor  # [..., D]
    stochastic: Tensor  # [..., S, K], or [..., S] if Gaussian
    parameters: Tensor  # [..., P]


class RSSM(nn.Module):
    """Args:
    space: what the stochastic state is.
    tokens: width of an encoded observation.
    action: width of the flat action.
    """

    def __init__(
        self,
        space: CategoricalLatent | GaussianLatent,
        *,
        deterministic: int,
        hidden: int,
        blocks: int,
        tokens: int,
        action: int,
        prior_layers: int,
        posterior_layers: int,
    ) -> None:
        super().__init__()
        self.space = space
        self.core = BlockGRU(deterministic, space.features_width, action, hidden, blocks)
        self.prior = self._head(deterministic, hidden, prior_layers)
        self.posterior = self._head(deterministic + tokens, hidden, posterior_layers)

    def _head(self, inputs: int, hidden: int, layers: int) -> MLP:
        return MLP(inputs, [hidden] * layers, self.space.parameters_width, activation=None, norm=RMSNormSilu)

    def prior_parameters(self, deterministic: Tensor) -> Tensor:
        """[..., P] what the memory alone tells of the stochastic state."""
        return at_least_float32(self.prior(deterministic))

    def _state(self, deterministic: Tensor, parameters: Tensor, noise: Noise) -> RecurrentState:
        """The stochastic part is drawn in the parameters' precision and kept in that of the memory."""
        stochastic = self.space.sample(parameters, noise).to(deterministic.dtype)
        return RecurrentState(deterministic, stochastic, parameters)

    def observe(
        self, deterministic: Tensor, stochastic: Tensor, action: Tensor, tokens: Tensor, is_init: Tensor, noise: Noise
    ) -> RecurrentState:
        """The next state given its observation.

        Args:
            deterministic, stochastic: of the row before; is_init [..., 1] puts zeros in their place and the action's.
            action: [..., A] flat, what led here; tokens: [..., E] the encoded observation.
        """
        keep = (~is_init).to(deterministic.dtype)
        action = self.core.embed_action(action * keep)
        flat = self.space.features(stochastic) * keep
        deterministic = self.core(deterministic * keep, flat, action)
        parameters = at_least_float32(self.posterior(torch.cat([deterministic, tokens.to(deterministic.dtype)], -1)))
        return self._state(deterministic, parameters, noise)

    def observe_sequence(
        self, deterministic: Tensor, stochastic: Tensor, action: Tensor, tokens: Tensor, is_init: Tensor, noise: Noise
    ) -> RecurrentState:
        """States [*B, T, …] of a sequence, equal to T calls of `observe`; the carry is [*B, …], all else [*B, T, …]."""
        time = is_init.dim() - 2
        keep = (~is_init).to(deterministic.dtype)
        tokens = tokens.to(deterministic.dtype)
        embedded = self.core.embed_action(action * keep)
        flat = self.space.features(stochastic)
        rows = zip(*(x.unbind(time) for x in (embedded, tokens, keep)), strict=True)
        states: list[RecurrentState] = []
        for embedded_t, token_t, keep_t in rows:
            deterministic = self.core(deterministic * keep_t, flat * keep_t, embedded_t)
            parameters = at_least_float32(self.posterior(torch.cat([deterministic, token_t], -1)))
            states.append(self._state(deterministic, parameters, noise))
            flat = self.space.features(states[-1].stochastic)
        return RecurrentState(*(torch.stack(parts, time) for parts in zip(*states, strict=True)))

    def predict(self, deterministic: Tensor, stochastic: Tensor, action: Tensor, noise: Noise) -> RecurrentState:
        """The next state without an observation."""
        flat = self.space.features(stochastic)
        deterministic = self.core(deterministic, flat, self.core.embed_action(action))
        parameters = self.prior_parameters(deterministic)
        return self._state(deterministic, parameters, noise)
