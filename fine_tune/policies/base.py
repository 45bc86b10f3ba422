"""What a policy is: how one family of models encodes, corrupts, and scores a sample, and what its reference is.

Tensors that belong together travel as named dictionaries with the batch as first dimension, so that a family may
have several (latents; text embeddings and pooled embeddings; tokens and masks).
"""

from __future__ import annotations

import abc
import contextlib
import contextvars
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.fine_tune import ALL_LEVELS
from tgo_pipeline.seeds import derive_seed

if TYPE_CHECKING:
    from tgo_pipeline.params import FineTuneParams
    from tgo_pipeline.params.checks import Precision
    from tgo_pipeline.planning.families import Family

Corruption = TypeVar("Corruption")
ENCODING_PARTS = ("vae", "vqvae", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Pipeline components that only the encoder needs: a training run with a complete cache does not load them."""


_ON_FILES = contextvars.ContextVar("on_files", default=False)


class Encoder(Protocol):
    """Turns images and prompts into the tensors that the policy trains on; needs the `ENCODING_PARTS`."""

    def images(self, images: Sequence[Any]) -> dict[str, Tensor]:
        """Encode N RGB images (a family of clips: N arrays, uint8 (T, H, W, 3)) to named CPU tensors of N rows."""
        ...

    def prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode N prompts to named CPU tensors of N rows."""
        ...


class Policy(abc.ABC, Generic[Corruption]):
    """A model being trained, with its frozen reference.

    The reference is a frozen copy of the network (`full`) or the network with its adapter off (`lora`: one copy of the
    base in memory). Dropout stays off: policy and reference are the same function before the first update.
    """

    component: ClassVar[str]
    """The trained network's name in the pipeline."""
    of_clips: ClassVar[bool] = False
    """Whether samples are clips; else they are images."""
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Modules that an adapter is attached to when `fine_tune.lora.target_modules` is empty."""

    family: ClassVar[type[Family] | None] = None
    """How `tgo plan` imagines it; None where it cannot be planned."""

    network: nn.Module
    """The network being trained, adapters attached."""

    def __init__(
        self, network: nn.Module, params: FineTuneParams, *, frozen: nn.Module | None = None
    ) -> None:
        self.network = network.eval()
        self.params = params
        self._check_levels()
        self._active = network
        self._frozen = frozen

    @classmethod
    @abc.abstractmethod
    def encoder(cls, pipeline: Any, size: tuple[int | None, int | None]) -> Encoder:
        """The encoder of a pipeline, whose denoiser has sizes but no weights.

        `size` is (width, height) in pixels, None the model's own.
        """

    @classmethod
    @abc.abstractmethod
    def build(cls, pipeline: Any, params: FineTuneParams, *, seed: int, with_reference: bool) -> Policy:
        """Prepare a pipeline's network for training. Raises `TgoError` for a network that does not fit."""

    @abc.abstractmethod
    def corrupt(
        self, images: Mapping[str, Tensor], conditions: Mapping[str, Tensor], seeds: Sequence[int]
    ) -> Corruption:
        """Draw what the model has to undo (timestep and noise, or a mask), row i from `seeds[i]` alone.

        Equal seeds give equal draws: this is how policy and reference, and the two images of a pair, share them.
        """

    def predict(self, corruption: Corruption) -> Tensor:
        """What the active network says of a corruption, float32: noise, velocity, or logits of tokens."""
        return self.forward(self._active, corruption).float()

    @abc.abstractmethod
    def forward(self, network: Any, corruption: Corruption) -> Tensor:
        """What `network` says of a corruption, called as the family's pipeline calls it; also what a plan counts."""

    def _check_levels(self) -> None:
        if self.params.levels != list(ALL_LEVELS) and type(self).noise_level is Policy.noise_level:
            raise _without_levels(type(self))

    def at_levels(self, levels: Sequence[float]) -> Self:
        """The same model, with the same networks, that draws from these noise levels.

        Raises `TgoError` if it cannot draw from them alone. A family that has prepared its draws prepares them again.
        """
        other = copy.copy(self)
        other.params = dataclasses.replace(self.params, noise_levels=list(levels))
        other._check_levels()
        return other

    def noise_level(self, corruption: Corruption) -> Tensor:
        """(B,) levels that `corrupt` drew within `fine_tune.noise_levels`: 0 clean, 1 pure noise.

        Raises `TgoError` for a family that draws from all levels, whatever the parameters say.
        """
        raise _without_levels(type(self))

    @abc.abstractmethod
    def log_likelihood(self, prediction: Tensor, corruption: Corruption) -> Tensor:
        """(B,) float32 log-likelihoods of a prediction, up to a constant: -error / T."""

    @abc.abstractmethod
    def distance(self, prediction: Tensor, other: Tensor, corruption: Corruption) -> Tensor:
        """(B,) distances between two predictions of one corruption, in units of the error (not divided by T)."""

    def x0_error(self, prediction: Tensor, corruption: Corruption) -> Tensor:
        """(B,) squared errors of the denoised images over their absolute ones: means, the latter without gradient.

        Raises `TgoError` for a family that predicts no noise and no velocity.
        """
        raise TgoError(
            f"{type(self).__name__} predicts no noise and no velocity, and the objective nft has no form for it: "
            "choose another one, such as tgo."
        )

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """While it lasts, the frozen reference is the active network and no gradient is recorded.

        Raises ValueError if the policy was built without a reference.
        """
        with torch.no_grad():
            if self.params.method == "lora":
                self.network.disable_adapters()  # type: ignore[operator]
                try:
                    yield
                finally:
                    self.network.enable_adapters()  # type: ignore[operator]
                return
            if self._frozen is None:
                raise ValueError("the policy was built without a reference")
            trained, self._active = self._active, self._frozen
            try:
                yield
            finally:
                self._active = trained

    @property
    def networks(self) -> list[nn.Module]:
        """The network in training and, if there is one, its frozen copy."""
        return [self.network] if self._frozen is None else [self.network, self._frozen]

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over trained weights by the names of `trainable()`."""
        for name, parameter in self.trainable().items():
            parameter.copy_(weights[name])

    def save_memory(self) -> None:
        """From now on recompute activations in the backward pass (gradient checkpointing)."""
        self.network.enable_gradient_checkpointing()  # type: ignore[operator]

    def compile(self) -> None:
        """From now on run policy and reference as compiled by torch; the names of the weights stay."""
        for network in self.networks:
            network.compile()

    def save(self, folder: Path, pipeline: Any) -> None:
        """Write the result for `diffusers`.

        `full`: the whole pipeline with the tuned network. `lora`: the adapter alone; `pipeline` is not used.
        """
        if self.params.method == "lora":
            self._save_adapter(folder)
            return
        setattr(pipeline, self.component, self.network)
        pipeline.save_pretrained(folder)

    def _save_adapter(self, folder: Path) -> None:
        """Write what `load_lora_adapter` of the network reads; a family whose pipeline reads adapters overrides it."""
        self.network.save_lora_adapter(folder)  # type: ignore[operator]


def _without_levels(kind: type[Policy]) -> TgoError:
    return TgoError(
        f"{kind.__name__} does not say its noise levels: leave fine_tune.noise_levels at [0, 1], or give the family "
        "`noise_level` and draws within the range (docs/PLUGINS.md)."
    )


def base_precision(params: FineTuneParams) -> Precision:
    """What the weights under an adapter are held in (`networks.held`); those that are trained are float32."""
    return params.precision if params.method == "lora" else "fp32"


@contextlib.contextmanager
def on_files() -> Iterator[None]:
    """While it lasts, networks stay in the memory that their files are mapped to, and frozen copies share it.

    For networks that are cut into shards before they compute (`distributed.networks.Spread`): a process copies its own
    shard in the type that it is to have, and holds no more of other shards than a unit at a time.
    """
    before = _ON_FILES.set(True)
    try:
        yield
    finally:
        _ON_FILES.reset(before)


def prepare_network(
    pipeline: Any, policy: type[Policy], params: FineTuneParams, *, seed: int, with_reference: bool
) -> tuple[Any, Any]:
    """The network to train and the frozen copy of it (None for an adapter, or where none is needed).

    What is trained is float32; what is frozen is held in the training's precision where autocast rounds it anyway.
    An adapter's first values are drawn from `seed`. Raises `TgoError` for target modules that do not fit.
    """
    from tgo_pipeline.generators.networks.held import compute_in, hold, lay_out

    network = getattr(pipeline, policy.component)
    if not _ON_FILES.get():  # else shards become what they are to be, each by itself
        hold(network, base_precision(params))
        lay_out(network)
    if params.method == "lora":
        _attach(network.requires_grad_(False), policy, params, seed)
        compute_in(network, params.precision)
        return network, None
    network.requires_grad_(True)
    if not _ON_FILES.get():
        _leave_file(network)
    return network, _frozen_copy(network, params) if with_reference else None


def _frozen_copy(network: Any, params: FineTuneParams) -> Any:
    """The reference of a network that is trained as a whole."""
    from tgo_pipeline.generators.networks.held import hold

    shared = {id(p): nn.Parameter(p.data) for p in network.parameters()} if _ON_FILES.get() else {}
    copied = copy.deepcopy(network, shared).eval()  # parameters that it finds there are not copied
    if params.precision != "fp32":
        copied.requires_grad_(False)
        if not _ON_FILES.get():
            hold(copied, params.precision)
    # In fp32 the copy keeps `requires_grad`, although nothing ever asks for its gradients: torch computes products with
    # weights that have it in another way. Before the first step both must agree to the bit, so that log-ratios are
    # exactly 0. Under autocast the products are those of rounded copies, which have none of it without gradients.
    return copied


def _leave_file(network: Any) -> None:
    """Give a network on the CPU memory of its own in place of the file that is mapped there.

    A file puts its tensors at any address, an allocation at multiples of 64 bytes, and the last digits of a small
    product depend on that: the network and its frozen copy would differ.
    """
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _attach(network: Any, policy: type[Policy], params: FineTuneParams, seed: int) -> None:
    from peft import LoraConfig

    from tgo_pipeline.generators.networks.held import seen_in_float32

    targets = params.lora.target_modules or list(policy.lora_targets)
    config = LoraConfig(
        r=params.lora.rank,
        lora_alpha=params.lora.alpha,  # type: ignore[arg-type]  # peft declares int and takes any number
        init_lora_weights="gaussian",
        target_modules=targets,
    )
    with torch.random.fork_rng(devices=[]), seen_in_float32(network):
        torch.default_generator.manual_seed(derive_seed(seed, "lora", "adapter"))  # peft draws on the CPU
        try:
            network.add_adapter(config)
        except ValueError as error:
            raise TgoError(
                f"fine_tune.lora.target_modules {targets} do not fit the model's {policy.component}: {error}"
            ) from error


def adapter_metadata(network: Any) -> dict[str, Any]:
    """The adapter's configuration, without which a reader would take alpha for the rank."""
    config = network.peft_config["default"].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
