"""Weights are registered once, build on the meta device and survive saving."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn

from worldloom_rl.pretrained.registry import find_family
from worldloom_rl.testing.comparing import require, require_equal
from worldloom_rl.testing.subject import Data, own_modules, run, verbs_of
from worldloom_rl.world_model import WorldModel


def check_registered_weights(subject: WorldModel, data: Data) -> None:
    """A sequence with a verb holds each weight of the model once, and so does the state dict."""
    width = subject.latent_features(subject.initial_latent()).shape[-1]
    head = nn.Linear(width, 1)

    def read(*leaves: Tensor) -> Tensor:
        value: Tensor = head(subject.latent_features(dict(zip(subject.latent_spec.keys(), leaves, strict=True))))
        return value

    value = TensorDictModule(read, in_keys=list(subject.latent_keys), out_keys=["value"])
    value.head = head
    for verb in verbs_of(subject).values():
        sequence = TensorDictSequential(verb, value)
        found = [id(parameter) for parameter in sequence.parameters()]
        expected = {id(parameter) for parameter in (*subject.parameters(), *head.parameters())}
        once = len(found) == len(set(found)) and set(found) == expected
        require(once, subject, f"a sequence with {type(verb).__name__} does not hold each weight of the model once.")
    storages: dict[int, str] = {}
    for name, tensor in subject.state_dict().items():
        first = storages.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        require(first == name, subject, f"state_dict holds one tensor under two names, {first!r} and {name!r}.")


def check_meta_device(subject: WorldModel, data: Data) -> None:
    """Built on the meta device, the model has the same tensors and takes no memory."""
    own = {name: module.to("meta") for name, module in own_modules(subject).items()}
    with torch.device("meta"):
        built = type(subject)(subject.config, subject.observation_spec, subject.action_spec, None, **own)
    for name, tensor in (*built.named_parameters(), *built.named_buffers()):
        require(tensor.is_meta, subject, f"built under torch.device('meta'), {name!r} takes memory on {tensor.device}.")
    shapes = {name: tensor.shape for name, tensor in subject.state_dict().items()}
    on_meta = {name: tensor.shape for name, tensor in built.state_dict().items()}
    require(on_meta == shapes, subject, "built under torch.device('meta'), the model has other tensors.")
    same = built.num_parameters() == subject.num_parameters()
    require(same, subject, "built under torch.device('meta'), the model counts other parameters.")


def check_saving(subject: WorldModel, data: Data) -> None:
    """The saved and loaded model is of the same class and gives the same outputs."""
    registered = find_family(subject.model_type).model_class
    require(
        registered is type(subject),
        subject,
        f"its model_type {subject.model_type!r} is registered by {registered}, so it would be loaded as another class.",
    )
    inputs = data.inputs(subject, (4,))
    with tempfile.TemporaryDirectory() as folder:
        subject.save_pretrained(Path(folder) / "model")
        loaded = type(subject).from_pretrained(Path(folder) / "model", **own_modules(subject)).train(subject.training)
    for name, verb in verbs_of(subject).items():
        claim = f"{name} of the saved and loaded model differs"
        given = inputs.select(*verb.in_keys)
        found, expected = run(loaded, verbs_of(loaded)[name], given), run(subject, verb, given)
        require_equal(subject, found, expected, claim, tolerance=0.0)
