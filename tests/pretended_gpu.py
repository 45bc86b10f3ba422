"""GPUs that are none: tensors that say they lie on `cuda:0` or `cuda:1`, and are computed on the CPU.

What torch asks of a program that uses a GPU is asked here too: `torch.cuda.set_device` takes no device without an
index, tensors of one operation lie on one device, a generator on the device that it draws on. So every path that
only a GPU takes is run, by a machine that has none. What a GPU computes, and how fast, this does not say.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPUS = 2
MEMORY = 80 * 10**9
aten = torch.ops.aten
MIXED = {aten.copy_.default, aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
MIXED |= {aten._index_put_impl_.default}
"""Operations whose tensors may lie on several devices."""
READS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default)
"""Operations that wait for a GPU to have done all it was given."""


class OnGpu(torch.Tensor):
    """A tensor on a pretended GPU: `inner`, on the CPU, has its numbers."""

    inner: torch.Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, inner: torch.Tensor, place: torch.device) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
        )
        made.inner, made.place = inner, place
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        copy, other = kwargs.pop("copy", False), (args[0] if args else kwargs.get("other"))
        if isinstance(other, torch.Tensor):
            args, kwargs = (other.device, other.dtype), {}
        device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        place = self.place if device is None else _present().indexed(device)
        if place == self.place and dtype in (None, self.dtype) and memory_format is None and not copy:
            return self
        with _present().moves():
            return aten._to_copy.default(self, dtype=dtype, device=place, memory_format=memory_format)

    def cpu(self, *_: object) -> torch.Tensor:  # type: ignore[override]
        return self.to("cpu")

    def cuda(self, device: Any = None, *_: object) -> torch.Tensor:  # type: ignore[override]
        return self.to(torch.device("cuda") if device is None else device)

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def storage(self) -> Any:
        return self.inner.storage()

    def __repr__(self, **_: object) -> str:
        return f"OnGpu({self.inner!r}, {self.place})"

    def pin_memory(self, *_: object) -> torch.Tensor:  # type: ignore[override]
        raise RuntimeError("cannot pin a tensor on a GPU: only dense CPU tensors can be pinned")

    def numpy(self, **_: object) -> Any:  # type: ignore[override]
        raise TypeError(f"can't convert {self.place} device type tensor to numpy. Use Tensor.cpu() first.")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Machine(TorchDispatchMode):
    """While it lasts there are GPUs; `used` counts operations on each, `waits` what made the CPU wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self.used: Counter[torch.device] = Counter()
        self.asked: set[torch.device] = set()
        """Devices whose memory or streams were asked for."""
        self.waits = 0
        self._moving = False

    @contextlib.contextmanager
    def moves(self) -> Iterator[None]:
        """A tensor goes to another device, which torch's own code, to which all of them are on the CPU, never asks."""
        self._moving = True
        yield
        self._moving = False

    def stays(self, ours: list[OnGpu], device: torch.device) -> bool:
        """Whether a device is but what torch's own code takes for that of a tensor."""
        return bool(ours) and device.type == "cpu" and not self._moving

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {}, self)

    def indexed(self, device: Any) -> torch.device:
        """The device, a GPU with its index: the present one where none is given."""
        if device is not None and not isinstance(device, int) and torch.device(device).type != "cuda":
            return torch.device(device)
        index = (
            torch.cuda._utils._get_device_index(device, optional=True) if device is not None else self.current
        )
        return torch.device("cuda", index)


def _present() -> Machine:
    """The machine that is pretended now."""
    return next(each for each in _get_current_dispatch_mode_stack() if isinstance(each, Machine))


def computed(func: Any, args: Any, kwargs: dict[str, Any], machine: Machine | None = None) -> Any:
    """One operation, on the CPU, with the rules of a machine with GPUs."""
    flat, spec = tree_flatten((args, kwargs))
    ours = [each for each in flat if isinstance(each, OnGpu)]
    place = _place(func, flat, ours, kwargs, machine)
    if machine is not None:
        machine.waits += bool(ours) and (func in READS or place.type == "cpu")
        if place.type == "cuda":
            machine.used[place] += 1
    if place.type == "meta":
        return func(*args, **kwargs)
    inner = [each.inner if isinstance(each, OnGpu) else each for each in flat]
    args, kwargs = tree_unflatten(inner, spec)
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    if func is aten._to_copy.default and kwargs.pop("non_blocking", False) and place.type == "cpu" and ours:
        kwargs["non_blocking"] = False
    found = func(*args, **kwargs)
    if place.type == "cpu":
        return found
    known = {id(each.inner): each for each in ours}

    def outer(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return known.get(id(value)) if id(value) in known else OnGpu(value, place)

    return tree_map(outer, found)


def _place(
    func: Any, flat: list[Any], ours: list[OnGpu], kwargs: dict[str, Any], machine: Machine | None
) -> torch.device:
    """Where an operation is computed. Raises what torch raises for tensors of several devices."""
    if (
        torch._C._current_graph_task_id() != -1 and ours
    ):  # its gradients are made of what torch's own code takes for CPU
        return ours[0].place
    if kwargs.get("device") is not None and not (machine or _present()).stays(
        ours, torch.device(kwargs["device"])
    ):
        device = torch.device(kwargs["device"])
        if device.type != "cuda":
            return device
        assert machine is not None
        device = machine.indexed(device)
        if device.index >= GPUS:
            raise RuntimeError("CUDA error: invalid device ordinal")
    elif not ours:
        return torch.device("cpu")
    elif func is aten.copy_.default:
        first = flat[0]
        return first.place if isinstance(first, OnGpu) else torch.device("cpu")
    else:
        others = [
            each for each in flat if type(each) is torch.Tensor and each.dim() and each.device.type == "cpu"
        ]
        places = {each.place for each in ours if each.dim()} or {ours[0].place}
        on_cpu = isinstance(flat[0], torch.Tensor) and not isinstance(flat[0], OnGpu)
        if len(places) > 1 or (others and (func not in MIXED or on_cpu)):
            found = sorted(str(place) for place in places) + ["cpu"] * bool(others)
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {' and '.join(found)} in {func}"
            )
        (device,) = places
    generator = next((each for each in flat if isinstance(each, torch.Generator)), None)
    if generator is not None and generator.device != device:
        raise RuntimeError(f"Expected a '{device}' generator device but found '{generator.device}'")
    return device


@contextlib.contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """This machine with two GPUs, for code of this process."""
    machine = Machine()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) becomes operations

    def asked(answer: Any) -> Any:
        def ask(device: Any = None, *_: object, **__: object) -> Any:
            machine.asked.add(machine.indexed(device))
            return answer

        return ask

    def set_device(index: int) -> None:
        if index >= GPUS:
            raise RuntimeError("CUDA error: invalid device ordinal")
        machine.current = index

    with monkeypatch.context() as patch:
        patch.setattr(torch._C, "_cuda_setDevice", set_device, raising=False)
        numbers = {"memory_allocated": 10**9, "max_memory_allocated": 2 * 10**9, "memory_reserved": 10**9}
        numbers |= {"reset_peak_memory_stats": None, "synchronize": None, "get_device_name": "NVIDIA H200"}
        properties = SimpleNamespace(name="NVIDIA H200", major=9, minor=0, total_memory=MEMORY)
        numbers |= {"get_device_properties": properties, "get_device_capability": (9, 0)}
        for name, answer in {**numbers, "mem_get_info": (MEMORY * 9 // 10, MEMORY)}.items():
            patch.setattr(torch.cuda, name, asked(answer))
        patch.setattr(torch.cuda, "_lazy_init", _nothing)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: GPUS)
        patch.setattr(torch.cuda, "current_device", lambda: machine.current)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(torch.cuda, "empty_cache", _nothing)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        patch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
        patch.setattr(torch.cuda, "current_stream", asked(SimpleNamespace()))
        patch.setattr(
            torch.cuda, "Event", lambda *_, **__: SimpleNamespace(record=_nothing, synchronize=_nothing)
        )
        patch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self)
        patch.setattr(torch, "autocast", _Autocast)
        patch.setattr(torch.amp, "autocast", _Autocast)
        patch.setattr(torch, "is_autocast_enabled", lambda device="cuda": torch._C._is_any_autocast_enabled())
        for name in ("__enter__", "__exit__"):  # tensors of inference mode cannot be wrapped
            patch.setattr(torch.inference_mode, name, getattr(_NoGradient, name.strip("_")))
        try:
            with machine:
                yield machine
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
            torch._C._set_only_lift_cpu_tensors(False)


class _NoGradient:
    """What takes the place of inference mode."""

    def enter(self: Any) -> None:
        self.before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)

    def exit(self: Any, *_: object) -> None:
        torch.set_grad_enabled(self.before)


class _Autocast(torch.autocast):
    """Of a GPU, as the CPU does it."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def _nothing(*_: object) -> None:
    """A stream that has nothing to do."""
