"""OpenAI's GELU with its factors in the products around it: the same answers, gradients and names of weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPMLP

from tests.rewards import tiny
from tests.rewards.tiny import smooth_image
from tgo_pipeline.rewards.networks.feed_forward import QuickGeluMlp

IMAGES = [smooth_image(32 + step, 40) for step in range(5)]
PROMPTS = ["a red cat", "", "blue cats", "red", "a"]


@pytest.fixture
def replaced() -> CLIPMLP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        sizes = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2}
        network = CLIPMLP(CLIPVisionConfig(**sizes, hidden_act="quick_gelu"))
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return network


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(0))


def test_on_a_cpu_it_is_what_it_replaces_to_the_bit(replaced: CLIPMLP, inputs: torch.Tensor) -> None:
    own = QuickGeluMlp(copy.deepcopy(replaced))
    assert torch.equal(own(inputs), replaced(inputs))
    assert own.state_dict().keys() == replaced.state_dict().keys()


def test_the_fused_form_answers_by_the_formula(replaced: CLIPMLP, inputs: torch.Tensor) -> None:
    own = QuickGeluMlp(replaced)
    wide = inputs.double() @ replaced.fc1.weight.double().T + replaced.fc1.bias.double()
    exact = (
        wide / (1 + torch.exp(-1.702 * wide))
    ) @ replaced.fc2.weight.double().T + replaced.fc2.bias.double()
    torch.testing.assert_close(own.fused(inputs).double(), exact, rtol=0, atol=2e-5)
    with torch.autocast("cpu", torch.float16):
        rounded, plain = own.fused(inputs), own(inputs)
    assert rounded.dtype == plain.dtype == torch.float16
    # neither form is farther from the exact answer than half precision is
    assert (rounded - exact).abs().max() < 1.5 * (plain - exact).abs().max()


def test_gradients_are_those_of_the_plain_form(replaced: CLIPMLP, inputs: torch.Tensor) -> None:
    own = QuickGeluMlp(replaced)
    gradients = []
    for forward in (own, own.fused):
        given = inputs.clone().requires_grad_()
        forward(given).square().sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(QuickGeluMlp, "forward", QuickGeluMlp.fused)
    yield


@pytest.mark.parametrize(("name", "tolerance"), [("clip", 1e-6), ("aesthetic", 1e-5)])
def test_scores_of_the_fused_form(
    name: str, tolerance: float, as_on_a_gpu: None, request: pytest.FixtureRequest
) -> None:
    reward = tiny.build(name)
    mlps = [each for each in reward.modules() if isinstance(each, QuickGeluMlp)]
    assert len(mlps) == (4 if name == "clip" else 2)
    fused = reward.score(IMAGES, PROMPTS)
    request.getfixturevalue("monkeypatch").undo()
    plain = reward.score(IMAGES, PROMPTS)
    assert abs(fused - plain).max() < tolerance
