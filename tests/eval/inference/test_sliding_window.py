"""The sliding window against nnU-Net's own predictor, on networks with random weights."""

from __future__ import annotations

import copy
import itertools
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from scipy.ndimage import gaussian_filter
from torch import nn

from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.inference import precision, sliding_window
from nnunet_robust.eval.inference.precision import Choices, torch_forward
from nnunet_robust.eval.inference.sliding_window import SlidingWindow
from nnunet_robust.trainers import TRAINERS
from tests.eval.small_device import SMALL, SmallDevice
from tests.trainers.test_networks import build, plans

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_robust.eval.inference.precision._SECONDS_PER_TRIAL", 0.01)


def unet(dimensions: int, heads: int = 3, kernel: Any = 3, strides: Any = (1, 2, 2), channels: int = 2) -> nn.Module:
    torch.manual_seed(0)
    convolution, norm = (
        (nn.Conv2d, nn.InstanceNorm2d) if dimensions == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    )  # as plans have them
    return PlainConvUNet(
        channels, 3, [6, 12, 16], convolution, kernel, list(strides), 2, heads, 2,
        conv_bias=True, norm_op=norm, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, deep_supervision=False,
    )  # fmt: skip


def weights(network: nn.Module, folds: int) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    return [{name: v + 0.05 * torch.randn_like(v) for name, v in network.state_dict().items()} for _ in range(folds)]


def stock(
    network: nn.Module,
    patch: Sequence[int],
    mirror_axes: Sequence[int] | None,
    folds: int = 1,
    step: float = 0.5,
    heads: int = 3,
    device: torch.device = CPU,
) -> nnUNetPredictor:
    predictor = nnUNetPredictor(tile_step_size=step, device=device, allow_tqdm=False)
    predictor.network = network
    predictor.list_of_parameters = weights(network, folds)
    predictor.configuration_manager = SimpleNamespace(patch_size=list(patch))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=heads)
    predictor.allowed_mirroring_axes = mirror_axes
    return predictor


def image(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))


def window(network: nn.Module, patch: Sequence[int] = (16, 16), heads: int = 3, **options: Any) -> SlidingWindow:
    return SlidingWindow([network], patch, options.pop("mirror_axes", None), heads, CPU, **options)


ANISOTROPIC = {"kernel": [(1, 3, 3), (3, 3, 3), (3, 3, 3)], "strides": [(1, 1, 1), (1, 2, 2), (2, 2, 2)]}
CASES = {  # network, patch, mirror axes, folds, step, image
    "2d": (unet(2), (16, 24), (0, 1), 1, 0.5, (1, 35, 31)),
    "2d, tile as large as the image": (unet(2), (32, 48), (0, 1), 1, 0.5, (1, 32, 48)),
    "2d, image smaller than the patch": (unet(2), (32, 48), (0, 1), 1, 0.5, (1, 17, 60)),
    "2d on a volume, slice by slice": (unet(2), (16, 24), (0, 1), 2, 0.5, (5, 20, 31)),
    "2d, no mirroring, narrow step": (unet(2), (16, 16), None, 1, 0.3, (1, 33, 40)),
    "2d, one axis, three folds": (unet(2), (16, 32), (1,), 3, 0.75, (1, 40, 50)),
    "3d": (unet(3), (8, 16, 12), (0, 1, 2), 1, 0.5, (13, 16, 17)),
    "3d, smaller, two folds": (unet(3), (8, 12, 16), (0, 1, 2), 2, 0.5, (7, 12, 9)),
    "3d, anisotropic, no mirroring": (unet(3, **ANISOTROPIC), (4, 16, 24), None, 2, 0.5, (7, 14, 35)),
    "3d, anisotropic, two axes": (unet(3, **ANISOTROPIC), (4, 16, 24), (1, 2), 1, 1.0, (5, 20, 40)),
}


@pytest.mark.parametrize("case", CASES)
def test_exact_gives_nnunets_bits(case: str) -> None:
    network, patch, mirror_axes, folds, step, shape = CASES[case]
    predictor = stock(network, patch, mirror_axes, folds, step)
    sliding = SlidingWindow.from_predictor(predictor)
    data = image(*shape)
    wanted = predictor.predict_logits_from_preprocessed_data(data.clone())
    for _ in range(2):  # the second call measures nothing
        found = sliding.logits(data)
        assert found.dtype == wanted.dtype == torch.half
        assert found.shape == (3, *shape)
        assert torch.equal(found, wanted)
    assert torch.equal(data, image(*shape))


class _Mirrored(nn.Module):
    """What a network says of a mirrored tile, turned back."""

    def __init__(self, network: nn.Module, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.axes = network, axes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.flip(self.axes)).flip(self.axes)


@pytest.mark.parametrize("case", ["2d", "2d, one axis, three folds", "3d", "3d, smaller, two folds"])
@pytest.mark.parametrize("by", [("folds",), ("mirroring",), ("folds", "mirroring")])
def test_members_are_what_nnunet_says_of_each(case: str, by: tuple[str, ...]) -> None:
    network, patch, mirror_axes, folds, step, shape = CASES[case]
    predictor = stock(network, patch, mirror_axes, folds, step)
    data = image(*shape)
    wanted_mean = predictor.predict_logits_from_preprocessed_data(data.clone())
    (found,) = SlidingWindow.from_predictor(predictor).members_many([data], by)
    assert torch.equal(found.mean, wanted_mean)

    axes = [axis + 2 for axis in mirror_axes or ()]
    mirrors = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]
    parameters = predictor.list_of_parameters
    assert len(found.members) == (folds if "folds" in by else 1) * (len(mirrors) if "mirroring" in by else 1)
    for number, member in enumerate(found.members):
        single = copy.copy(predictor)
        fold = number // (len(mirrors) if "mirroring" in by else 1)
        single.list_of_parameters = [parameters[fold]] if "folds" in by else parameters
        if "mirroring" in by:
            turned = _Mirrored(network, mirrors[number % len(mirrors)])
            single.network, single.allowed_mirroring_axes = turned, None
            single.list_of_parameters = [
                {f"network.{name}": value for name, value in p.items()} for p in single.list_of_parameters
            ]
        wanted = single.predict_logits_from_preprocessed_data(data.clone())
        _assert_nearly_all_close(member, wanted)
    _assert_nearly_all_close(torch.stack([member.float() for member in found.members]).mean(0), found.mean)


def _assert_nearly_all_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """In an image's corners the Gaussian weights are so small that half precision has few digits left of them."""
    apart = (found.float() - wanted.float()).abs()
    assert (apart > 4e-3).float().mean() < 0.05 and apart.max() < 0.6


def test_what_batches_is_exact_in_larger_batches_too() -> None:
    # 2d convolutions give the same bits in any batch: here the batch is given, and the tiles do not divide by it
    predictor = stock(unet(2), (16, 16), (0, 1))
    data = image(3, 33, 41)
    wanted = predictor.predict_logits_from_preprocessed_data(data)
    for batch_size in (1, 2, 4, 8, 64):
        found = SlidingWindow.from_predictor(predictor, choices={"batch_size": batch_size}).logits(data)
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)
        assert (found.argmax(0) == wanted.argmax(0)).float().mean() > 0.9999


def test_images_of_any_shapes_share_batches() -> None:
    predictor = stock(unet(2), (16, 16), (0, 1), folds=2)
    images = [image(1, 16, 16), image(2, 20, 31, seed=3), image(1, 9, 40, seed=4)]
    together = SlidingWindow.from_predictor(predictor).logits_many(images)
    for data, logits in zip(images, together, strict=True):
        assert torch.equal(logits, predictor.predict_logits_from_preprocessed_data(data))
    assert SlidingWindow.from_predictor(predictor).logits_many([]) == []


class Fake(nn.Module):
    """Two heads from one channel; what a call costs, and how it fails, is the test's."""

    def __init__(
        self,
        per_call: float = 0.0,
        fits: int = 10**6,
        error: Exception | None = None,
        drift: float = 0.0,
        per_tile: float = 0.0,
    ) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.per_call, self.fits, self.error, self.drift = per_call, fits, error, drift
        self.per_tile = per_tile
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if len(x) > self.fits and self.error is not None:
            raise self.error
        time.sleep(self.per_call + self.per_tile * len(x))
        return torch.cat([x[:, :1], x[:, 1:] * self.scale], 1) + self.drift * (len(x) > 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes time pass in `Fake` only, however busy the machine is."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds + 1e-6

    monkeypatch.setattr(f"{__name__}.time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: now[0]))


def fake_wanted(data: torch.Tensor) -> torch.Tensor:
    predictor = stock(Fake(), (16, 16), (0, 1), heads=2)
    predictor.list_of_parameters = [Fake().state_dict()]
    return predictor.predict_logits_from_preprocessed_data(data)


def test_a_batch_that_pays_is_found_and_remembered(clock: None) -> None:
    network = Fake(per_call=0.01)
    sliding = window(network, heads=2, mirror_axes=(0, 1))
    sliding.logits(image(1, 16, 40))  # 4 tiles, 16 copies
    assert sliding.choices["batch_size"] == 16
    network.sizes.clear()
    sliding.logits_many([image(1, 16, 16)] * 7)  # 28 copies: one batch of 4 tiles, then 2, then 1
    assert network.sizes == [16, 8, 4]


def test_a_batch_that_does_not_pay_is_not_taken(clock: None) -> None:
    sliding = window(Fake(per_tile=0.05), heads=2, mirror_axes=(0, 1))
    sliding.logits(image(1, 16, 40))
    assert sliding.choices["batch_size"] == 1


def test_a_batch_with_other_bits_is_not_exact(clock: None) -> None:
    sliding = window(Fake(per_call=0.01, drift=1e-7), heads=2, mirror_axes=(0, 1))
    sliding.logits(image(1, 16, 40))
    assert sliding.choices["batch_size"] == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("choices", [None, {"batch_size": 16}])
@pytest.mark.parametrize("fits", [1, 2, 4, 8])
def test_memory_that_does_not_do_halves_the_batch(error: Exception, choices: Any, fits: int) -> None:
    data = image(1, 20, 40)
    network = Fake(per_call=0.002, fits=fits, error=error)
    sliding = window(network, heads=2, mirror_axes=(0, 1), choices=choices)
    assert torch.equal(sliding.logits(data), fake_wanted(data))
    assert sliding.choices["batch_size"] <= fits
    network.sizes.clear()
    sliding.logits(data)
    assert max(network.sizes) <= fits


def test_memory_for_not_even_one_tile_is_one_line() -> None:
    sliding = window(Fake(fits=0, error=torch.OutOfMemoryError("CUDA out of memory")), heads=2)
    with pytest.raises(UserError, match=r"^a single tile of 16x16 voxels does not fit into the memory of cpu"):
        sliding.logits(image(1, 16, 16))


def test_other_faults_are_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="sizes do not match"):
        window(Fake(fits=0, error=RuntimeError("sizes do not match")), heads=2).logits(image(1, 16, 16))


TOO_LARGE = "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."


@pytest.mark.parametrize("error", [RuntimeError(TOO_LARGE), RuntimeError("[GPU] a bad shape"), ValueError("odd")])
def test_a_batch_size_that_cannot_be_run_ends_the_search_alone(error: Exception, clock: None) -> None:
    data = image(1, 16, 40)
    sliding = window(Fake(per_call=0.01, fits=4, error=error), heads=2, mirror_axes=(0, 1))
    assert torch.equal(sliding.logits(data), fake_wanted(data))
    assert sliding.choices["batch_size"] == 4
    assert sliding.notes == (f"a batch of 8 tiles cannot be run ({error})",)


def test_a_batch_size_of_an_earlier_run_that_cannot_be_run_is_halved() -> None:
    data = image(1, 16, 40)
    network = Fake(fits=4, error=RuntimeError(TOO_LARGE))
    sliding = window(network, heads=2, mirror_axes=(0, 1), choices={"batch_size": 16})
    assert torch.equal(sliding.logits(data), fake_wanted(data))
    assert sliding.choices["batch_size"] == 4 and len(sliding.notes) == 2


@pytest.mark.parametrize("choices", [None, {"batch_size": 16}])
def test_an_error_that_leaves_the_device_unusable_is_raised_at_once(choices: Any) -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    network = Fake(per_call=0.01, fits=4, error=error)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        window(network, heads=2, mirror_axes=(0, 1), choices=choices).logits(image(1, 16, 40))
    assert [size for size in network.sizes if size > 4] == network.sizes[-1:]


def logits_bytes(*shape: int) -> int:
    return 2 * math.prod(shape) * 2  # heads, half precision


@pytest.mark.parametrize("by", [(), ("mirroring",), ("folds", "mirroring")])
@pytest.mark.parametrize("foreseen", [False, True])
def test_only_the_image_that_does_not_fit_leaves_the_device(
    by: tuple[str, ...], foreseen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [image(1, 16, 16), image(1, 48, 48, seed=3), image(1, 16, 24, seed=4)]
    wanted = [window(Fake(), heads=2, mirror_axes=(0, 1)).members_many([data], by)[0] for data in images]
    device = SmallDevice(monkeypatch, 6 * logits_bytes(16, 24) * (1 if not by else 5))
    if foreseen:
        monkeypatch.setattr(sliding_window, "_SURELY_FREE", 0)
        monkeypatch.setattr(sliding_window, "free_bytes", lambda of: device.size - device.used)
    sliding = window(Fake(), heads=2, mirror_axes=(0, 1))
    for _ in range(2):
        found = [sliding.members_many([data], by)[0] for data in images]
        assert [device.has(logits.mean) for logits in found] == [True, False, True]
        for logits, other in zip(found, wanted, strict=True):
            assert torch.equal(logits.mean, other.mean)
            assert all(torch.equal(a, b) for a, b in zip(logits.members, other.members, strict=True))
        del found, logits
    with pytest.raises(MemoryError, match="the logits of 3 images do not fit on cpu:0 together"):
        sliding.members_many(images, by)
    assert sliding.choices["results_device"] == str(SMALL)
    assert (device.refused == 0) is foreseen
    (note,) = sliding.notes
    assert "an image of 1x48x48 voxels, with logits of 2 channels" in note and "summed on the CPU" in note


def test_waiting_logits_make_room_before_anything_leaves_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    device = SmallDevice(monkeypatch, 3.5 * logits_bytes(16, 40))
    sliding = window(Fake(), heads=2)
    waiting: list[torch.Tensor] = []

    def make_room() -> bool:
        there = bool(waiting)
        waiting.clear()
        return there

    sliding.make_room = make_room
    for seed in range(5):
        data = image(1, 16, 40, seed=seed)
        waiting.append(sliding.logits(data))
        assert device.has(waiting[-1]) and torch.equal(waiting[-1], fake_wanted_unmirrored(data))
    assert device.refused == 1 and not sliding.notes


def test_a_batch_is_not_halved_for_what_waits() -> None:
    waiting = [0]
    network = Fake()
    network.register_forward_pre_hook(lambda _, inputs: full() if waiting and len(inputs[0]) > 2 else None)

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    sliding = window(network, heads=2, mirror_axes=(0, 1), choices={"batch_size": 16})
    sliding.make_room = lambda: bool(waiting) and [waiting.clear()] == [None]
    sliding.logits(image(1, 16, 40))
    waiting.append(0)
    sliding.logits(image(1, 16, 40))
    assert sliding.choices["batch_size"] == 16 and not waiting


def fake_wanted_unmirrored(data: torch.Tensor) -> torch.Tensor:
    predictor = stock(Fake(), (16, 16), None, heads=2)
    predictor.list_of_parameters = [Fake().state_dict()]
    return predictor.predict_logits_from_preprocessed_data(data)


def test_bytes_are_those_of_all_channels_and_members() -> None:
    sliding = window(Fake(), heads=118, mirror_axes=(0, 1))
    scan = torch.empty(1, 134, 512, 512, device="meta")
    one = 118 * 134 * 512 * 512 * 2
    assert sliding.bytes_held(scan, ()) == one and sliding.bytes_held(scan, ("mirroring",)) == 5 * one
    assert sliding.bytes_held(torch.empty(1, 3, 5, 20, device="meta"), ()) == 118 * 3 * 16 * 20 * 2


class Tiny(nn.Module):
    """As little as there is to compile."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, features, 3, padding=1)
        self.last = nn.Conv2d(features, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(nn.functional.leaky_relu(self.first(x)))


class Compiler:
    """A backend of torch.compile that notes the batch size of each graph that it gets, and fails above one."""

    def __init__(self, error: Exception, fits: int = 10**6) -> None:
        self.error, self.fits = error, fits
        self.graphs: list[int] = []

    def __call__(self, graph: Any, inputs: Sequence[Any]) -> Callable[..., Any]:
        (batch,) = (len(given) for given in inputs if given.shape[1:] == (2, 16, 16))
        self.graphs.append(batch)

        def run(*arguments: Any) -> Any:
            if batch > self.fits:
                raise self.error
            return graph(*arguments)

        return run


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Compiler], None]]:
    """Compiles networks on the CPU, with the compiler that it is called with."""
    torch.compiler.reset()

    def use(compiler: Compiler) -> None:
        monkeypatch.setattr(precision, "_COMPILED", {})
        monkeypatch.setattr(precision, "_COMPILER", compiler)
        ways = {**precision._ALTERNATIVES["exact", "cpu"], "compiled": (False, True)}
        monkeypatch.setitem(precision._ALTERNATIVES, ("exact", "cpu"), ways)

    yield use
    torch.compiler.reset()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(TOO_LARGE)])
@pytest.mark.parametrize("fits", [0, 1, 4])
def test_a_compiled_batch_really_gets_smaller(error: Exception, fits: int, compiled: Any) -> None:
    predictor, data = stock(Tiny(4), (16, 16), (0, 1), folds=2), image(1, 20, 40)
    wanted = predictor.predict_logits_from_preprocessed_data(data)
    compiler = Compiler(error, fits)
    compiled(compiler)
    sliding = SlidingWindow.from_predictor(predictor, choices={"batch_size": 8, "compiled": True})
    for _ in range(2):
        torch.testing.assert_close(sliding.logits(data), wanted, rtol=0, atol=2e-3)
    assert sliding.choices["batch_size"] == max(1, fits)
    assert sliding.choices["compiled"] is (fits > 0)
    assert compiler.graphs == [size for size in (8, 4, 2, 1) if size >= fits]
    assert any("not compiled" in note for note in sliding.notes) is (fits == 0)


def test_what_cannot_be_compiled_runs_as_it_is_and_is_told(compiled: Any) -> None:
    predictor, data = stock(Tiny(4), (16, 16), (0, 1), folds=2), image(1, 20, 40)
    wanted = predictor.predict_logits_from_preprocessed_data(data)
    compiled(Compiler(ValueError("no such instruction"), fits=0))
    sliding = SlidingWindow.from_predictor(predictor, choices={"batch_size": 8, "compiled": True})
    torch.testing.assert_close(sliding.logits(data), wanted, rtol=0, atol=2e-3)
    assert sliding.choices["compiled"] is False and sliding.choices["batch_size"] == 8
    assert sliding.notes == ("not compiled, as that does not work (no such instruction)",)


def test_any_number_of_networks_is_compiled(compiled: Any) -> None:
    """torch.compile itself gives up after 8 of a class, in silence."""
    compiler = Compiler(ValueError())
    compiled(compiler)
    tile = torch.zeros(1, 2, 16, 16)
    with torch.inference_mode():
        for channels in range(4, 14):
            network = Tiny(channels)
            assert torch.equal(torch_forward(network, Choices("torch", compiled=True), tile)(tile), network(tile))
        assert len(compiler.graphs) == 10
        for seed in range(10):  # of one make
            torch.manual_seed(seed)
            network = Tiny(4)
            assert torch.equal(torch_forward(network, Choices("torch", compiled=True), tile)(tile), network(tile))
        assert len(compiler.graphs) == 10


@pytest.mark.usefixtures("small_unetr", "one_thread")
@pytest.mark.parametrize("trainer", TRAINERS)
def test_our_networks_are_compiled_as_a_whole(trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_COMPILED", {})
    monkeypatch.setattr(precision, "_COMPILER", "eager")
    network, patch = build(trainer, plans("plain", "2d"), deep_supervision=False)
    batch = torch.randn(2, 1, *patch)
    with torch.inference_mode():
        found = torch_forward(network, Choices("torch", compiled=True), batch[:1])(batch)
        torch.testing.assert_close(found, network(batch))


def test_more_graphs_than_torch_keeps_are_told(compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(Compiler(ValueError()))
    monkeypatch.setattr(precision, "_COMPILED", {})
    data = image(1, 16, 16)
    sliding = window(Tiny(4), choices={"batch_size": 1, "compiled": True})
    sliding.logits(data)
    assert sliding.choices["compiled"] is True
    tile = torch.zeros(1, 2, 16, 16)
    run = torch_forward(Tiny(4), Choices("torch", compiled=True), tile)
    with torch.inference_mode():
        for size in range(2, 9):
            run(torch.zeros(size, 2, 16, 16))
    full = window(Tiny(4), choices={"batch_size": 16, "compiled": True})
    full.logits(data)
    assert full.choices["compiled"] is False
    assert "not compiled" in full.notes[0]


def test_whoever_measures_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(str(device)))
    for name in ("mps", "cuda:1", "cpu"):
        precision._synchronize(torch.device(name))
    assert waited == ["mps", "cuda:1"]


def test_what_an_earlier_run_chose_is_compiled_before_the_first_image(compiled: Any) -> None:
    compiler = Compiler(ValueError())
    compiled(compiler)
    network, given = Tiny(4).eval(), {"compiled": True, "batch_size": 4}
    offered = precision.alternatives("exact", CPU, given, sliding_window.BACKENDS)
    sliding = window(network, mirror_axes=(0, 1), choices=given)
    with precision.torch_threads(sliding.threads, CPU), torch.inference_mode():  # a graph holds for that number alone
        precision.torch_begin(network, offered, torch.zeros(1, 2, 16, 16))
    assert compiler.graphs == [4]
    sliding.logits(image(1, 40, 40))
    assert compiler.graphs == [4] and sliding.choices["compiled"] is True


def test_nobody_measures_while_something_is_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, sliding = threading.Event(), threading.Event(), window(Fake(), heads=2)

    def begin(network: nn.Module, offered: Any, probe: torch.Tensor) -> None:
        assert probe.shape == (1, 2, 16, 16) and not probe.any()
        begun.set()
        assert go_on.wait(60)

    monkeypatch.setattr(sliding_window, "torch_begin", begin)
    sliding.device = torch.device("cuda")
    beside = threading.Thread(target=sliding.warm_up, args=(2,))
    beside.start()
    assert begun.wait(60)
    sliding.device = CPU
    threading.Timer(0.05, go_on.set).start()
    data = image(1, 16, 40)
    assert torch.equal(sliding.logits(data), fake_wanted_unmirrored(data))
    assert go_on.is_set()
    beside.join()


def test_choices_repeat_a_run() -> None:
    first = window(Fake(per_call=0.01), heads=2, mirror_axes=(0, 1))
    assert first.choices == {}
    first.logits(image(1, 16, 40))
    network = Fake()
    second = window(network, heads=2, mirror_axes=(0, 1), choices=first.choices)
    second.logits(image(1, 16, 40))
    assert network.sizes == [16]  # nothing but the image's own tiles
    assert second.choices == first.choices
    assert first.choices["backend"] == "torch"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "quick"}, "take one of exact, fast"),
        ({"choices": {"batch": 4}}, "there is no choice 'batch': choices are .*batch_size"),
        ({"choices": {"batch_size": 3}}, "power of two"),
        ({"choices": {"threads": 0}}, "positive"),
        ({"choices": {"memory_layout": "channels_last"}}, "not there for precision 'exact' on cpu: take contiguous"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        window(Fake(), **options)
    assert "\n" not in str(caught.value)


def test_the_number_of_threads_is_nnunets_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("nnunet_robust.eval.inference.precision.default_num_processes", 1)
    network = Fake()
    network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        window(network, heads=2).logits(image(1, 16, 16))
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_logits_too_large_for_half_precision_are_told() -> None:
    with pytest.raises(UserError, match="too large for half precision"):
        window(Fake(), heads=2).logits(image(1, 16, 16) * 1e5)


def test_an_image_without_its_third_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got shape \(2, 16, 16\)"):
        window(Fake(), heads=2).logits(image(16, 16))


def test_fast_without_openvino_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r'pip install "nnunet_robust\[cpu\]"'):
        window(Fake(), precision="fast")


def in_double_precision(predictor: nnUNetPredictor, data: torch.Tensor) -> torch.Tensor:
    """The stock arithmetic without its half precision, which at the corners of a volume rounds logits to integers."""
    patch = predictor.configuration_manager.patch_size
    data, inside = pad_nd_image(data.double(), patch, return_slicer=True)
    peak = torch.zeros(patch).index_put_(tuple(torch.tensor([size // 2]) for size in patch), torch.ones(1))
    gaussian = torch.from_numpy(gaussian_filter(peak.double().numpy(), [size / 8 for size in patch], mode="constant"))
    mean: torch.Tensor | float = 0.0
    for parameters in predictor.list_of_parameters:
        network = copy.deepcopy(predictor.network).double()
        network.load_state_dict(parameters)
        logits, total = torch.zeros(3, *data.shape[1:], dtype=torch.double), torch.zeros(data.shape[1:]).double()
        for where in predictor._internal_get_sliding_window_slicers(tuple(data.shape[1:])):
            prediction = predictor_of_mirrors(network.eval(), data[where][None], predictor.allowed_mirroring_axes or ())
            logits[where] += prediction * gaussian
            total[where[1:]] += gaussian
        mean = mean + logits / total / len(predictor.list_of_parameters)
    return mean[(slice(None), *inside[1:])]


def predictor_of_mirrors(network: nn.Module, tile: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    flips = [[]]
    for axis in axes:
        flips += [[*flip, axis + 2] for flip in flips]
    with torch.no_grad():
        return torch.stack([network(tile.flip(flip)).flip(flip)[0] for flip in flips]).mean(0)


@pytest.mark.parametrize("case", ["2d, image smaller than the patch", "3d, anisotropic, two axes"])
@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.03)])
def test_fast_on_a_cpu_is_near(case: str, kind: str, tolerance: float) -> None:
    pytest.importorskip("openvino")
    from nnunet_robust.eval.inference.openvino_backend import supported_types

    if kind not in supported_types():
        pytest.skip(f"this CPU does not compute in {kind}")
    network, patch, mirror_axes, folds, step, shape = CASES[case]
    predictor = stock(network, patch, mirror_axes, folds, step)
    data = image(*shape)
    sliding = SlidingWindow.from_predictor(predictor, "fast", {"inference_type": kind})
    found = sliding.logits(data)
    wanted = in_double_precision(predictor, data)
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() < tolerance * wanted.abs().max()
    assert sliding.choices["backend"] == "openvino"
    assert sliding.choices["inference_type"] == kind


def test_openvino_tells_nobody_that_it_was_used() -> None:
    pytest.importorskip("openvino")
    code = (
        "from nnunet_robust.eval.inference.openvino_backend import supported_types; import sys; supported_types();"
        "print(sys.modules['openvino.tools.ovc.convert_impl'].tm.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


def test_openvino_that_gives_other_logits_is_refused() -> None:
    pytest.importorskip("openvino")

    class Traced(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (1 + 0.2 * int(torch.jit.is_tracing()))

    with pytest.raises(UserError, match="other logits than PyTorch for Traced"):
        window(Traced(), heads=2, precision="fast").logits(image(1, 16, 16))


def test_what_openvino_cannot_convert_is_told() -> None:
    pytest.importorskip("openvino")

    class Untraceable(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x).real.unsqueeze(-1) * x

    with pytest.raises(UserError, match=r'OpenVINO cannot run Untraceable .* take precision "exact"'):
        window(Untraceable(), heads=2, precision="fast").logits(image(1, 16, 16))


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]
# Of the largest logit. Networks of these shapes in float16, with sums in float32, are at most 0.0014 away from double
# precision, in bfloat16 0.013 (measured on a CPU); sums in half precision up to 0.5, in a volume's corners.
TOLERANCES: Mapping[str, float] = {"float32": 1e-4, "float16": 0.004, "bfloat16": 0.03}


def differing(labels: torch.Tensor, others: torch.Tensor) -> int:
    return int((labels != others).sum())


def assert_labels_are_stocks(
    found: torch.Tensor, stocks: Sequence[torch.Tensor], oracle: torch.Tensor, tolerance: float
) -> None:
    """At most twice as many voxels differ as between two stock runs, or 1e-5 of all, where there is a right answer.

    There is none where two labels are closer than the tolerance, or where the stock rounding alone decides.
    """
    labels, first, second = (logits.argmax(0) for logits in (found, *stocks))
    best, next_best = oracle.topk(2, 0).values
    decided = (best - next_best > 2 * tolerance * oracle.abs().max()) & (first == oracle.argmax(0))
    assert decided.float().mean() > 0.8
    allowed = max(2 * differing(first, second), int(1e-5 * first.numel()))
    assert differing(labels[decided], first[decided]) <= allowed


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_exact_gives_nnunets_labels(case: str, device: str) -> None:
    network, patch, mirror_axes, folds, step, shape = CASES[case]
    predictor = stock(copy.deepcopy(network), patch, mirror_axes, folds, step, device=torch.device(device))
    data = image(*shape)
    wanted = [predictor.predict_logits_from_preprocessed_data(data).float().cpu() for _ in range(2)]
    found = SlidingWindow.from_predictor(predictor).logits(data)
    assert found.device.type == device and found.dtype == torch.half
    assert ((found.cpu() - wanted[0]).abs() > 0.02 * wanted[0].abs().max()).float().mean() < 0.05
    oracle = in_double_precision(stock(copy.deepcopy(network), patch, mirror_axes, folds, step), data)
    assert_labels_are_stocks(found.cpu(), wanted, oracle, TOLERANCES["float16"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_fast_is_near_double_precision_and_gives_nnunets_labels(case: str, device: str) -> None:
    if device == "cpu":
        pytest.importorskip("openvino")
    network, patch, mirror_axes, folds, step, shape = CASES[case]
    predictor = stock(copy.deepcopy(network), patch, mirror_axes, folds, step, device=torch.device(device))
    data = image(*shape)
    wanted = [predictor.predict_logits_from_preprocessed_data(data).float().cpu() for _ in range(2)]
    sliding = SlidingWindow.from_predictor(predictor, "fast")
    found = sliding.logits(data)
    assert found.device.type == device and found.dtype == torch.float32
    tolerance = TOLERANCES[sliding.choices["inference_type"]]
    oracle = in_double_precision(stock(copy.deepcopy(network), patch, mirror_axes, folds, step), data)
    assert (found.cpu() - oracle).abs().max() < tolerance * oracle.abs().max()
    assert_labels_are_stocks(found.cpu(), wanted, oracle, tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_results_move_to_the_cpu_where_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    sliding = SlidingWindow.from_predictor(stock(unet(2), (16, 16), None, device=torch.device("cuda")))
    zeros = torch.zeros

    def full(*arguments: Any, **options: Any) -> torch.Tensor:
        if torch.device(options.get("device", "cpu")).type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return zeros(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", full)
        assert sliding.logits(image(1, 40, 40)).device.type == "cpu"
    assert sliding.logits(image(1, 40, 40)).device.type == "cuda"
    assert torch.device(sliding.choices["results_device"]).type == "cuda"
