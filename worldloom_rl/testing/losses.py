"""The loss is finite, reaches every weight outside the behaviour and names what is missing."""

from __future__ import annotations

import torch

from worldloom_rl.testing.comparing import require, require_key_error, require_latent, untouched
from worldloom_rl.testing.subject import Data, arrivals, seeded
from worldloom_rl.world_model import WorldModel


def check_loss(subject: WorldModel, data: Data) -> None:
    """Terms are finite, leave the posterior attached, reach every weight, and miss each of `loss_keys`."""
    rows = arrivals(subject, data)
    subject.zero_grad(set_to_none=True)
    with untouched(subject, rows, "compute_loss"):
        terms, posterior = seeded(subject).compute_loss(rows)
    require(bool(terms), subject, "compute_loss gives no terms.")
    for name, term in terms.items():
        finite = term.dtype is torch.float32 and bool(term.isfinite().all())
        require(finite, subject, f"the loss term {name!r} is not finite in float32.")
        require(term.requires_grad, subject, f"the loss term {name!r} has no gradient.")
    latent = subject.read_latent(posterior)
    require_latent(subject, latent, tuple(rows.batch_size), "compute_loss")
    attached = any(value.requires_grad for value in latent.values())
    frozen = not any(value.requires_grad for value in subject.read_latent(subject.observe(rows.copy())).values())
    claim = "the posterior of compute_loss is detached; what follows decides that, not the model"
    require(attached or frozen, subject, f"{claim}.")
    torch.autograd.backward([term.mean() for term in terms.values()])
    for name, parameter in subject.named_parameters():
        if parameter.requires_grad and not name.startswith("behavior."):
            learns = parameter.grad is not None and bool(parameter.grad.isfinite().all())
            require(learns, subject, f"compute_loss gives the weight {name!r} no finite gradient.")
    subject.zero_grad(set_to_none=True)
    for key in subject.loss_keys:
        require_key_error(subject, subject.compute_loss, rows, key, "compute_loss")
