"""Compiled steps: the numbers of eager ones, and a plain message where nothing can be built."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from worldloom_rl.models.dreamerv3 import DreamerV3
from worldloom_rl.models.tdmpc2 import TDMPC2
from worldloom_rl.nn.mlp import MLP
from worldloom_rl.noise import ModeNoise
from worldloom_rl.pretrained.registry import find_preset
from worldloom_rl.training.compilation import compile_model, compile_modules, missing_compiler


def tiny() -> TDMPC2:
    torch.manual_seed(0)
    return TDMPC2(find_preset("tdmpc2:tiny")[1], *TDMPC2.default_specs()).eval()  # type: ignore[arg-type]


def test_without_a_compiler_the_model_stays_as_it_is_and_the_message_tells_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    model = tiny()
    message = compile_model(model)
    assert "needs a C++ compiler" in message
    assert "goes on as it is" in message
    assert all(module._compiled_call_impl is None for module in model.modules())


def test_cxx_names_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "my-compiler")
    assert "my-compiler" in str(missing_compiler())
    (tmp_path / "my-compiler").touch(mode=0o755)
    assert missing_compiler() is None


class Shifted(nn.Module):
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([shift]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.shift


@pytest.fixture
def eager_backend(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """torch.compile that only traces; the list grows by each build."""
    built: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        built.append(graph)
        return graph.forward

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: original(function, backend=backend, **options))
    return built


def test_many_modules_of_one_class_are_all_compiled_and_share_builds_over_row_counts(
    eager_backend: list[object],
) -> None:
    modules = [Shifted(float(i)) for i in range(12)]  # torch gives up after 8 builds of one function
    compile_modules(modules)
    for rows in (3, 5, 7):
        for i, module in enumerate(modules):
            assert torch.equal(module(torch.zeros(rows)), torch.full((rows,), float(i)))
    assert len(eager_backend) == 12


def test_copies_and_pickles_are_not_compiled(eager_backend: list[object]) -> None:
    module = Shifted(1.0)
    compile_modules([module])
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other._compiled_call_impl is None
        with torch.no_grad():
            other.shift.fill_(5.0)
        assert other(torch.zeros(2)).tolist() == [5.0, 5.0]


def test_a_traced_model_predicts_and_values_as_before(eager_backend: list[object]) -> None:
    model, plain = tiny(), tiny()
    compile_modules(model.step_modules())
    latent = {"deterministic": plain.simnorm.mode(torch.randn(4, 64))}
    action = torch.rand(4, 6)
    for predict in ("predict_latent", "predict_branches"):
        given = action if predict == "predict_latent" else action.unsqueeze(1).repeat(1, 3, 1)
        ours = getattr(model, predict)(latent, given, model.noise)
        theirs = getattr(plain, predict)(latent, given, plain.noise)
        torch.testing.assert_close(ours.latent["deterministic"], theirs.latent["deterministic"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.reward, theirs.reward, rtol=1e-4, atol=1e-4)
    steps = torch.randn(4, 70)
    torch.testing.assert_close(model.behavior.q(steps), plain.behavior.q(steps), rtol=1e-4, atol=1e-5)
    assert eager_backend


@pytest.fixture
def fresh_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := missing_compiler()) is not None:
        pytest.skip(reason)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # more would be processes that import torch first
    torch.manual_seed(0)


@pytest.mark.process
@pytest.mark.usefixtures("fresh_builds")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
def test_a_built_dreamer_steps_and_imagines_many_and_few_rows_as_before() -> None:
    model = DreamerV3(find_preset("dreamerv3:tiny")[1], *DreamerV3.default_specs()).eval()  # type: ignore[arg-type]
    plain = copy.deepcopy(model)
    compile_modules([model.rssm.core, model.imagined_step])
    core, ours = plain.rssm.core, model.rssm.core
    actions = torch.rand(3, 400, model.action_space.width)
    for rows in (3, 300, 400):  # many rows have a way of their own
        latent = model.initial_latent(torch.Size([rows]))
        with torch.no_grad():
            latent["deterministic"] = state = torch.randn_like(latent["deterministic"])
            given = (state, latent["stochastic"].flatten(-2), core.embed_action(actions[0, :rows]))
            torch.testing.assert_close(ours(*given), core(*given), rtol=1e-4, atol=1e-5)
        imagined = []
        for each in (model, plain):
            given_actions = iter(actions)
            act = lambda features, noise, given=given_actions: next(given)[: len(features)]  # noqa: E731
            imagined.append(each.dream_features(latent, act, 3, ModeNoise())[0])
        torch.testing.assert_close(*imagined, rtol=1e-4, atol=1e-5)


@pytest.mark.process
@pytest.mark.usefixtures("fresh_builds")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
def test_a_built_perceptron_gives_its_values_with_and_without_a_gradient() -> None:
    plain = MLP(5, [8, 8], 3)
    built = copy.deepcopy(plain)
    compile_modules([built])
    for shape in ((1, 5), (7, 5), (2, 3, 5)):
        x = torch.randn(shape)
        torch.testing.assert_close(built(x), plain(x))
        with torch.no_grad():
            torch.testing.assert_close(built(x), plain(x))
