"""A pretend CUDA device, for machines without one: what would raise on CUDA raises, what would wait there is counted.

Inside of `pretend_cuda()` torch says that there is one CUDA device. Its tensors say `cuda:0`, and are computed on the
CPU. As on CUDA, an operation raises if its tensors lie on both devices, if it draws from a generator of the CPU, or if
torch has no CUDA kernel for it; `.numpy()` and `np.asarray` raise. What it cannot show: speed, memory, races between
streams, the rounding of CUDA's kernels, and determinism. Everything is undone at the end.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from nnunet_robust.eval.inference import precision

aten = torch.ops.aten
DEVICE = torch.device("cuda:0")
TOTAL_MEMORY = 16 << 30
PACKAGES = ("nnunet_robust", "nnunetv2")

_COPIES = ("aten::_to_copy", "aten::copy_")
_MATRIX_PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::addmv", "aten::dot")
# What `torch.autocast` computes in half precision, of the operations that networks here have.
_IN_HALF = (
    *(f"aten::{name}{axes}d" for name in ("conv", "conv_transpose") for axes in (1, 2, 3)),
    "aten::linear",
    "aten::matmul",
)
# A CUDA tensor takes indices that lie on the CPU.
_INDEXING = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_", "aten::_unsafe_index")
# The shape of the result, or what Python goes on with, depends on values: the CPU waits for the device.
_WAITING = (
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::repeat_interleave",
)


class Event(NamedTuple):
    """What happened between the CPU and the device.

    Attributes:
        kind: "wait" (the CPU waits until the device is done), "to_device" or "to_host" (a transfer).
        operation: of torch's.
        where: file and line, of `PACKAGES` where one of these is at work.
        n_bytes: of a transfer.
    """

    kind: str
    operation: str
    where: str
    n_bytes: int = 0


class Tally:
    """What was counted.

    Attributes:
        events: in order.
        compiled: how often torch.compile was called; the network runs as it is.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.compiled = 0
        self._pinned: set[int] = set()

    def count(self, kind: str) -> int:
        """The number of events of a kind."""
        return sum(event.kind == kind for event in self.events)

    def places(self, kind: str) -> Counter[str]:
        """How many events of a kind each place has: to be shown where a test fails."""
        return Counter(f"{event.operation} at {event.where}" for event in self.events if event.kind == kind)

    def clear(self) -> None:
        """Begin again."""
        self.events.clear()
        self.compiled = 0

    def note(self, kind: str, operation: str, n_bytes: int = 0) -> None:
        """Add an event. Threads may do so at once."""
        self.events.append(Event(kind, operation, _place(), n_bytes))


_tally: Tally | None = None  # of the device that is there
_autocast = threading.local()


class CudaTensor(torch.Tensor):
    """A tensor that says cuda:0, with its values in `inner`, a tensor on the CPU.

    To torch's C++ it is one of the device `meta`, whose gradients torch computes without a driver of CUDA's.
    """

    inner: torch.Tensor
    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> CudaTensor:
        made: CudaTensor = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device="meta", requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"CudaTensor({self.inner!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied: torch.Tensor = CudaTensor(self.inner.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        else:
            copied.requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied

    def to(self, *args: Any, copy: bool = False, **kwargs: Any) -> torch.Tensor:
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        if device is None or not _ends_there(device, True):
            return super().to(*args, copy=copy, **kwargs)
        # to where it is: itself, unless it changes otherwise
        layout = {} if memory_format is None else {"memory_format": memory_format}
        return super().to(dtype or self.dtype, non_blocking=non_blocking, copy=copy, **layout)

    def cuda(self, *_: Any, **__: Any) -> torch.Tensor:
        return self

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees what no tensor on the device takes part in: transfers to it, and tensors that are made there."""

    def __enter__(self) -> Any:
        self._lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is a transfer, too
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self._lifted)
        super().__exit__(*exception)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def _dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation of torch's, on either device."""
    name = func.name().split(".")[0]
    if _is_composite(func.name()):  # inference mode leaves them whole
        if name in _IN_HALF and getattr(_autocast, "on", False):
            args = _mapped(_to_half, args)
        with _Mode():
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
    if name in _COPIES:
        return _copy(func, args, kwargs)
    if name in ("aten::is_pinned", "aten::_pin_memory"):
        return _pinning(name, args[0])
    leaves = list(_leaves((*args, *kwargs.values())))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, CudaTensor)]
    made_there = _ends_there(kwargs.get("device"), bool(there))
    pin = kwargs.pop("pin_memory", None) if "pin_memory" in kwargs else None
    if not there and not made_there:
        result = func(*args, **kwargs)
        return _pinned(result) if pin else result
    _check(func, name, args, tensors, leaves)
    _note_waiting(name, args)
    result = func(*_mapped(_to_cpu, args), **{key: _mapped(_to_cpu, value) for key, value in kwargs.items()})
    if not made_there:
        return result
    # in inference mode too, a view of a tensor from outside is none of inference mode's
    of_outside = func.is_view and bool(there) and not there[0].is_inference()
    with torch.inference_mode(False) if of_outside else contextlib.nullcontext():
        wrapped = _mapped(lambda leaf: CudaTensor(leaf) if isinstance(leaf, torch.Tensor) else leaf, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped


@functools.cache
def _is_composite(name: str) -> bool:
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    found: bool = torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    return found


@functools.cache
def _lacks_kernel(name: str) -> bool:
    """Whether torch, where it is built for CUDA, cannot do this there."""
    return torch.version.cuda is not None and not torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CUDA")


def _copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What copies a tensor, perhaps to the other device."""
    in_place = func.name().startswith("aten::copy_")
    source = args[1] if in_place else args[0]
    from_there = isinstance(source, CudaTensor)
    to_there = isinstance(args[0], CudaTensor) if in_place else _ends_there(kwargs.get("device"), from_there)
    pin = None if in_place else kwargs.pop("pin_memory", None)
    inner = func(*_mapped(_to_cpu, args), **{key: _mapped(_to_cpu, value) for key, value in kwargs.items()})
    if from_there != to_there:
        not_waiting = args[2] if in_place and len(args) > 2 else kwargs.get("non_blocking", False)
        _transfer(func.name(), source, from_there, not_waiting)
    if in_place:
        return args[0]
    if to_there:
        # Of a tensor that is on the CPU and stays there, torch may return itself.
        return CudaTensor(inner.clone() if inner is source else inner)
    return _pinned(inner) if pin else inner


def _transfer(operation: str, source: torch.Tensor, from_there: bool, not_waiting: bool) -> None:
    assert _tally is not None, "a tensor of a pretend device that is no longer there"
    size = source.numel() * source.element_size()
    if size:
        _tally.note("to_host" if from_there else "to_device", operation, size)
        if from_there and not not_waiting:
            _tally.note("wait", operation)


def _check(func: Any, name: str, args: tuple[Any, ...], tensors: list[torch.Tensor], leaves: list[Any]) -> None:
    """Raise what CUDA would raise."""
    if _lacks_kernel(func.name()):
        raise NotImplementedError(f"Could not run '{func.name()}' with arguments from the 'CUDA' backend")
    if name in _MATRIX_PRODUCTS and not (tensors[0].is_floating_point() or tensors[0].is_complex()):
        raise NotImplementedError(f"'{name}' is not implemented for integers on CUDA")
    if any(isinstance(leaf, torch.Generator) and leaf.device.type == "cpu" for leaf in leaves):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, CudaTensor) and tensor.ndim > 0]
    if not elsewhere:
        return
    if name in _INDEXING and isinstance(args[0], CudaTensor):
        values = args[2] if len(args) > 2 else None
        if not any(tensor is values for tensor in elsewhere):
            _transfer(name, elsewhere[0], from_there=False, not_waiting=False)
            return
    raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu ({func.name()})")


def _note_waiting(name: str, args: tuple[Any, ...]) -> None:
    assert _tally is not None, "a tensor of a pretend device that is no longer there"
    waits = name in _WAITING
    if name in _INDEXING and not waits:
        by_mask = any(getattr(index, "dtype", None) in (torch.bool, torch.uint8) for index in args[1])
        fills = len(args) > 2 and args[2].numel() == 1  # which CUDA does without counting the mask
        waits = by_mask and not fills
    if waits:
        _tally.note("wait", name)


def _pinning(name: str, tensor: torch.Tensor) -> Any:
    assert _tally is not None
    if name == "aten::is_pinned":
        return not isinstance(tensor, CudaTensor) and tensor.untyped_storage().data_ptr() in _tally._pinned
    if isinstance(tensor, CudaTensor):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return _pinned(tensor.clone())


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    assert _tally is not None
    _tally._pinned.add(tensor.untyped_storage().data_ptr())
    return tensor


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(value)
        else:
            yield value


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Arguments or results, which are values, lists and tuples of these, with each value changed."""
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(change, each) for each in value])
    return change(value)


def _ends_there(device: Any, from_there: bool) -> bool:
    """Whether a result lies on the device, by the device that is asked for, if any, and that of the arguments."""
    # torch's C++ asks for `meta`, the device that it sees, e.g. for the value of `x[0] = 5`
    return from_there if device is None else torch.device(device).type in ("cuda", "meta")


def _to_cpu(leaf: Any) -> Any:
    if isinstance(leaf, CudaTensor):
        return leaf.inner
    return torch.device("cpu") if isinstance(leaf, torch.device) and leaf.type in ("cuda", "meta") else leaf


def _to_half(leaf: Any) -> Any:
    return leaf.half() if isinstance(leaf, CudaTensor) and leaf.dtype == torch.float32 else leaf


class _Autocast(contextlib.ContextDecorator):
    """`torch.autocast` in inference mode: convolutions and matrix products in half precision."""

    def __init__(self, device_type: str, *_: Any, enabled: bool = True, **__: Any) -> None:
        self._on = device_type == "cuda" and enabled

    def __enter__(self) -> None:
        self._before = getattr(_autocast, "on", False)
        _autocast.on = self._on

    def __exit__(self, *_: object) -> None:
        _autocast.on = self._before


def _place() -> str:
    """The innermost line of `PACKAGES`; else that of a test."""
    frame: FrameType | None = sys._getframe(2)
    of_test = "?"
    while frame is not None:
        file = frame.f_code.co_filename
        for package in PACKAGES:
            if (at := file.rfind(f"/{package}/")) >= 0:
                return f"{file[at + 1 :]}:{frame.f_lineno}"
        if of_test == "?" and "/tests/" in file and not file.endswith("tests/pretend_cuda.py"):
            of_test = f"{file[file.rfind('/tests/') + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return of_test


class _Stream:
    """A stream, or an event, whose work is always done: everything runs at once."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = DEVICE

    def synchronize(self) -> None:
        assert _tally is not None
        _tally.note("wait", "synchronize")

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: Any) -> float:
        return 1.0

    def record_event(self, event: Any = None) -> Any:
        return event or _Stream()

    def record(self, *_: Any) -> None:
        pass

    wait = wait_stream = wait_event = record

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _cuda_module(tally: Tally) -> dict[str, Any]:
    """What `torch.cuda` has instead."""
    stream = _Stream()
    properties = SimpleNamespace(name="pretend", total_memory=TOTAL_MEMORY, multi_processor_count=1, major=9, minor=0)
    return {
        "_lazy_init": _constant(None),
        "is_available": _constant(True),
        "device_count": _constant(1),
        "current_device": _constant(0),
        "set_device": _constant(None),
        "device": _constant(contextlib.nullcontext()),
        "get_device_name": _constant("pretend"),
        "get_device_capability": _constant((9, 0)),
        "get_device_properties": _constant(properties),
        "is_bf16_supported": _constant(True),
        "mem_get_info": _constant((TOTAL_MEMORY, TOTAL_MEMORY)),
        "memory_allocated": _constant(0),
        "memory_reserved": _constant(0),
        "max_memory_allocated": _constant(0),
        "reset_peak_memory_stats": _constant(None),
        "empty_cache": _constant(None),
        "synchronize": lambda *_, **__: tally.note("wait", "torch.cuda.synchronize"),
        "current_stream": _constant(stream),
        "default_stream": _constant(stream),
        "stream": _constant(contextlib.nullcontext()),
        "Stream": _Stream,
        "Event": _Stream,
    }


@contextlib.contextmanager
def pretend_cuda(*, autocast: bool = False) -> Iterator[Tally]:
    """Have a pretend CUDA device, in this thread and in all that are started meanwhile.

    Args:
        autocast: let `torch.autocast("cuda")` round to half precision, as CUDA does. Else it does nothing, and results
            are those of the CPU.

    Yields:
        What is counted.
    """
    global _tally
    if _tally is not None:
        raise RuntimeError("there is a pretend device already")
    tally = Tally()
    run = threading.Thread.run

    def run_there(thread: threading.Thread) -> None:
        with _Mode():  # a mode is of a thread
            run(thread)

    def compiled(model: Any = None, **_: Any) -> Any:
        tally.compiled += 1
        return model

    with pytest.MonkeyPatch.context() as patch, _overwritten_parameters():
        torch._C._ensureCUDADeviceGuardSet()
        for name, value in _cuda_module(tally).items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch, "compile", compiled)
        patch.setattr(precision, "_COMPILED", {})  # what was compiled before, or is here, is of this device alone
        patch.setattr(torch.Tensor, "record_stream", _constant(None))
        patch.setattr(torch, "autocast", _Autocast if autocast else _constant(contextlib.nullcontext()))
        # torch would choose kernels of cuDNN for tensors that say cuda
        for flag in ("enabled", "benchmark", "deterministic"):
            patch.setattr(torch.backends.cudnn, flag, False)
        patch.setattr(torch.backends.cudnn, "flags", _constant(contextlib.nullcontext()))
        patch.setattr(threading.Thread, "run", run_there)
        _tally = tally
        try:
            with _Mode():
                yield tally
        finally:
            _tally = None
            _clear_caches()


@contextlib.contextmanager
def _overwritten_parameters() -> Iterator[None]:
    """`Module.to` makes new parameters: in those that are there it would exchange the values behind `inner`."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _clear_caches() -> None:
    """Functions that remember what they made on a device must not hand it to other tests."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in PACKAGES:
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()
