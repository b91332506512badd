"""How networks are run: what may be chosen for a precision on a device, and the short measurement that chooses."""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from types import FunctionType
from typing import Any, NamedTuple

import torch
from nnunetv2.configuration import default_num_processes
from torch import nn

from nnunet_robust.common.errors import UserError, one_line

# A batch (n, channels, *patch) on the networks' device -> logits (n, heads, *patch), there.
Forward = Callable[[torch.Tensor], torch.Tensor]

PRECISIONS = ("exact", "fast")
_LARGEST_BATCH = 256
_PAYS = 0.97  # of the time that it took before, or less: below that a measurement is noise
_SECONDS_PER_TRIAL = 0.2
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
)
# What a library says of shapes that it cannot do: fewer tiles at once may do.
_TOO_LARGE = (
    "unable to find an engine",
    "find was unable",
    "not_supported",
    "32-bit index",
    "int32",
    "integer out of range",
    "invalid configuration argument",
)
# After these, nothing works any more on the device.
_FATAL = (
    "illegal memory access",
    "illegal address",
    "misaligned address",
    "illegal instruction",
    "device-side assert",
    "unspecified launch failure",
    "uncorrectable",
)
_COMPILER = "inductor"  # of torch.compile
_COMPILED: dict[tuple[object, ...], Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {}


@dataclass(frozen=True)
class Choices:
    """How the networks of one model are run; the same choices on the same machine give the same bits.

    Attributes:
        backend: torch or openvino.
        inference_type: type that the network computes in (float32, float16, bfloat16).
        memory_layout: contiguous or channels_last.
        compiled: whether torch.compile is used.
        batch_size: tiles, mirrored copies counted, that go through the network at once; a power of two.
        results_device: where the logits are accumulated.
        threads: of the network, on a CPU.
    """

    backend: str
    inference_type: str = "float32"
    memory_layout: str = "contiguous"
    compiled: bool = False
    batch_size: int = 1
    results_device: str = "cpu"
    threads: int = 1


# What is tried beside the first of each. On a CPU, "exact" has one way only: another layout is another summation order.
_ALTERNATIVES: dict[tuple[str, str], dict[str, tuple[Any, ...]]] = {
    ("exact", "cpu"): {"backend": ("torch",)},
    ("exact", "mps"): {"backend": ("torch",)},
    ("exact", "cuda"): {
        "backend": ("torch",),
        "inference_type": ("float16",),
        "memory_layout": ("contiguous", "channels_last"),
    },
    ("fast", "cpu"): {"backend": ("openvino",), "inference_type": ("float32", "bfloat16")},
    ("fast", "cuda"): {
        "backend": ("torch",),
        "inference_type": ("float16",),
        "memory_layout": ("contiguous", "channels_last"),
        "compiled": (False, True),
    },
}


class Backend(NamedTuple):
    """What computes a network.

    Attributes:
        forward: makes the forward pass from the network, the choices, and one tile (1, channels, *patch) on the device
            that computes.
        types: returns the types that this machine computes in, for `Choices.inference_type`; None if all are there.
    """

    forward: Callable[[nn.Module, Choices, torch.Tensor], Forward]
    types: Callable[[], Collection[str]] | None = None


def alternatives(
    precision: str, device: torch.device, given: Mapping[str, Any] | None, backends: Mapping[str, Backend]
) -> dict[str, tuple[Any, ...]]:
    """List what may be chosen: attribute of `Choices` -> the values to try, the first one to begin with.

    Args:
        precision: exact or fast.
        device: of the networks.
        given: attributes that are not to be chosen, as an earlier run recorded them; all others are.
        backends: what can compute a network, by name.

    Raises:
        UserError: an unknown precision, none such on this device, or a given choice that does not exist there.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r}: take one of {', '.join(PRECISIONS)}")
    if (precision, device.type) not in _ALTERNATIVES:
        raise UserError(f"precision {precision!r} is not there for device {device.type}: take cpu or cuda")
    on_cpu = device.type != "cuda"  # nnU-Net accumulates on the device on CUDA alone
    offered: dict[str, tuple[Any, ...]] = {
        **{name: (value,) for name, value in asdict(Choices("torch")).items()},
        "results_device": ("cpu",) if on_cpu else (str(device), "cpu"),
        **_ALTERNATIVES[precision, device.type],
    }
    threads = torch.get_num_threads()
    # nnU-Net's own number, as the last bit of a convolution depends on it
    offered["threads"] = (min(threads, default_num_processes) if precision == "exact" else threads,)
    if (types := backends[offered["backend"][0]].types) is not None:
        there = types()
        offered["inference_type"] = tuple(name for name in offered["inference_type"] if name in there)
    for name, value in (given or {}).items():
        if name not in offered:
            raise UserError(f"there is no choice {name!r}: choices are {', '.join(offered)}")
        if name in ("batch_size", "threads"):
            if not isinstance(value, int) or value < 1 or (name == "batch_size" and value & (value - 1)):
                raise UserError(f"{name} {value!r}: take a positive number, for batch_size a power of two")
        elif value not in offered[name]:
            raise UserError(
                f"{name} {value!r} is not there for precision {precision!r} on {device.type}: "
                f"take {' or '.join(map(str, offered[name]))}"
            )
        offered[name] = (value,)
    return offered


def choose(
    build: Callable[[Choices], Forward],
    offered: Mapping[str, tuple[Any, ...]],
    probe: torch.Tensor,
    largest_batch: int,
    same_bits: bool,
    note: Callable[[str], None],
) -> Choices:
    """Measure what runs fastest: the batch size first, doubled while that pays, then one attribute after the other.

    A larger batch or another attribute that cannot be run, whatever the error, is not chosen.

    Args:
        build: makes the network's forward pass for some choices.
        offered: from `alternatives`.
        probe: one tile (1, channels, *patch), on the networks' device.
        largest_batch: no larger one is tried.
        same_bits: refuse batch sizes that give other bits than single tiles do.
        note: is told why a batch size could not be run, unless that is for memory.

    Returns:
        The choices. Where there is nothing to choose, nothing is run.

    Raises:
        Exception: whatever a single tile raises, and what leaves the device unusable.
    """
    best = Choices(**{name: values[0] for name, values in offered.items()})
    others = {name: values[1:] for name, values in offered.items() if values[1:] and name != "results_device"}
    limit = min(largest_batch, _LARGEST_BATCH)
    if not others and limit < 2:
        return best
    forward = build(best)
    seconds, single = _measure(forward, probe, best.batch_size)
    while best.batch_size * 2 <= limit:
        larger = replace(best, batch_size=best.batch_size * 2)
        try:
            taken, output = _measure(forward, probe, larger.batch_size)
        except Exception as error:
            if is_fatal(error):
                raise
            if not is_out_of_memory(error):
                note(f"a batch of {larger.batch_size} tiles cannot be run ({one_line(error)[:200]})")
            break
        if taken > _PAYS * seconds or (same_bits and not torch.equal(output, single.expand_as(output))):
            break
        best, seconds = larger, taken
    for name, values in others.items():
        for value in values:
            other = replace(best, **{name: value})
            try:
                taken, _ = _measure(build(other), probe, other.batch_size)
            except Exception as error:  # e.g. no compiler for torch.compile
                if is_fatal(error):
                    raise
                continue
            if taken < _PAYS * seconds:
                best, seconds = other, taken
    return best


def _measure(forward: Forward, probe: torch.Tensor, batch_size: int) -> tuple[float, torch.Tensor]:
    """Seconds per tile, the shortest of a few runs after one to warm up, and the output."""
    batch = probe.expand(batch_size, *probe.shape[1:]).contiguous()
    output = forward(batch)
    _synchronize(probe.device)
    shortest, begin = float("inf"), time.perf_counter()
    while True:
        start = time.perf_counter()
        forward(batch)
        _synchronize(probe.device)
        end = time.perf_counter()
        shortest = min(shortest, end - start)
        if end - begin > _SECONDS_PER_TRIAL:
            return shortest / batch_size, output


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def torch_forward(network: nn.Module, choices: Choices, probe: torch.Tensor) -> Forward:
    """Make a forward pass in PyTorch, with nnU-Net's automatic mixed precision on CUDA.

    Args:
        network: moved to the device and into the memory layout.
        choices: layout and compilation. What is compiled is compiled once for each batch size: pad to a single one.
        probe: one tile (1, channels, *patch), on the device that computes.
    """
    device = probe.device
    three_d = any(isinstance(module, nn.Conv3d) for module in network.modules())
    layouts = {
        "contiguous": torch.contiguous_format,
        "channels_last": torch.channels_last_3d if three_d else torch.channels_last,
    }
    layout = layouts[choices.memory_layout]
    network = network.eval().to(device)
    network.to(memory_format=layout)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # as nnU-Net's predictor does
    run: Callable[[torch.Tensor], torch.Tensor] = network
    if choices.compiled:
        run = functools.partial(_compiled_for(network, probe, choices.memory_layout), network)

    def forward(batch: torch.Tensor) -> torch.Tensor:
        batch = batch.to(memory_format=layout)
        with torch.autocast("cuda") if device.type == "cuda" else contextlib.nullcontext():
            return run(batch)

    return forward


def _run(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = network(batch)
    return output


def _compiled_for(
    network: nn.Module, probe: torch.Tensor, memory_layout: str
) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """Compile `_run`, once for all networks of one make: folds and seeds share what is compiled, and for that alone.

    torch.compile takes note of what it has compiled by code object, which networks of one class share, and after 8 of
    them goes on without compiling, in silence. So each make has a code object of its own, and what cannot be compiled
    as a whole raises an error.
    """
    make = _COMPILER, repr(network), tuple(probe.shape[1:]), str(probe.device), memory_layout
    if make not in _COMPILED:
        own = FunctionType(_run.__code__.replace(), _run.__globals__, "run")
        _COMPILED[make] = torch.compile(own, backend=_COMPILER, dynamic=False, fullgraph=True)
    return _COMPILED[make]


def torch_begin(network: nn.Module, offered: Mapping[str, tuple[Any, ...]], probe: torch.Tensor) -> None:
    """Load what convolutions need, and import the compiler; compile where nothing is left to be chosen.

    Args:
        network: moved to the device.
        offered: from `alternatives`.
        probe: zeros (1, channels, *patch), on the device that computes.
    """
    settled = all(len(values) == 1 for name, values in offered.items() if name != "results_device")
    choices = Choices(**{name: values[0] for name, values in offered.items()})
    if settled or not choices.compiled:
        torch_forward(network, choices, probe)(probe.expand(choices.batch_size, *probe.shape[1:]).contiguous())
    if True in offered["compiled"]:
        importlib.import_module("torch._inductor.compile_fx")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory does not suffice; torch and OpenVINO have several ways to say so."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _NO_MEMORY)


def is_too_large(error: BaseException) -> bool:
    """Tell whether an error says that a batch is too large for what computes it, for other reasons than memory."""
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _TOO_LARGE)


def is_fatal(error: BaseException) -> bool:
    """Tell whether an error leaves the device unusable, so that nothing else needs to be tried."""
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _FATAL)


@contextlib.contextmanager
def torch_threads(count: int, device: torch.device) -> Iterator[None]:
    """Run torch with this number of threads, on a CPU."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
