"""The pretend CUDA device itself: it raises where CUDA would, computes as the CPU does, counts, and leaves nothing."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import nn

from tests.pretend_cuda import CudaTensor, Tally, pretend_cuda

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real CUDA device")


def there(*shape: int) -> torch.Tensor:
    return torch.ones(shape).cuda()


WRONG: dict[str, Callable[[], object]] = {
    "two devices": lambda: there(3) + torch.ones(3),
    "in place, from the CPU": lambda: there(3).add_(torch.ones(3)),
    "in place, on the CPU": lambda: torch.ones(3).add_(there(3)),
    "joined": lambda: torch.cat([there(3), torch.ones(3)]),
    "a network elsewhere": lambda: nn.Linear(3, 3)(there(1, 3)),
    "an index of the device": lambda: torch.ones(3)[torch.zeros(1, dtype=torch.long).cuda()],
    "values of the CPU": lambda: there(3).index_put_((torch.zeros(2, dtype=torch.long).cuda(),), torch.ones(2)),
    "a generator of the CPU": lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
    "numpy": lambda: there(3).numpy(),
    "asarray": lambda: np.asarray(there(3)),
    "a product of integers": lambda: there(3, 3).long() @ there(3, 3).long(),
    "pinned there": lambda: there(3).pin_memory(),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_it_raises_what_cuda_would(wrong: str, cuda: Tally) -> None:
    said = "same device|'cuda' device type for generator|cuda:0 device type tensor|integers on CUDA|cannot pin"
    with pytest.raises((RuntimeError, TypeError), match=said):
        WRONG[wrong]()


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is not built for CUDA")
def test_it_raises_where_torch_has_no_kernel(cuda: Tally) -> None:
    with pytest.raises(NotImplementedError, match="histogram"):
        torch.histogram(there(3), 4)


def test_it_says_that_it_is_there(cuda: Tally) -> None:
    assert torch.cuda.is_available() and torch.cuda.device_count() == 1
    made = torch.zeros(2, 3, device="cuda")
    for tensor in (made, torch.tensor([1.0], device="cuda"), torch.zeros_like(made), made.new_ones(2), made[0][1:]):
        assert isinstance(tensor, CudaTensor)
        assert tensor.device == torch.device("cuda:0") and tensor.is_cuda
    assert made.cpu().device.type == "cpu" and not isinstance(made.cpu(), CudaTensor)
    assert torch.ones(2).device.type == "cpu"


def test_to_where_it_is_already_is_itself(cuda: Tally) -> None:
    made = there(2, 3)
    assert made.to("cuda") is made.to(torch.device("cuda:0"), torch.float32) is made.to(made) is made.cuda() is made
    assert made.to("cuda", torch.half).dtype == torch.half and made.to("cuda", copy=True) is not made
    with torch.inference_mode():
        assert made[0][None].to("cuda").cpu().shape == (1, 3) and made[0].double().cpu().sum() == 3
    assert cuda.count("to_device") == 1


def test_a_number_of_the_cpu_and_its_indices_are_taken(cuda: Tally) -> None:
    assert (there(3) * torch.tensor(2.0)).tolist() == [2, 2, 2]
    assert there(3)[torch.tensor([0, 2])].tolist() == [1, 1]
    assert cuda.count("to_device") == 3  # the two tensors, and the indices


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(), nn.ConvTranspose2d(4, 3, 2)
    )


@pytest.mark.parametrize("inference", [False, True])
def test_a_network_computes_what_it_does_on_the_cpu(inference: bool, cuda: Tally) -> None:
    on_cpu, data = network(), torch.randn(2, 2, 9, 8)
    moved = copy.deepcopy(on_cpu).to("cuda").to("cuda:0").to(memory_format=torch.channels_last)
    with torch.inference_mode(inference), torch.set_grad_enabled(not inference):
        found = copy.deepcopy(moved)(data.cuda())
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), on_cpu(data))


def test_gradients_are_those_of_the_cpu(cuda: Tally) -> None:
    on_cpu, data = network(), torch.randn(1, 2, 9, 8)
    moved = copy.deepcopy(on_cpu).to("cuda")
    found, wanted = data.cuda().requires_grad_(), data.clone().requires_grad_()
    moved(found).square().sum().backward()
    on_cpu(wanted).square().sum().backward()
    assert found.grad is not None and found.grad.device.type == "cuda"
    torch.testing.assert_close(found.grad.cpu(), wanted.grad)
    for one, other in zip(moved.parameters(), on_cpu.parameters(), strict=True):
        torch.testing.assert_close(one.grad.cpu(), other.grad)


def test_views_share_their_values(cuda: Tally) -> None:
    data = torch.zeros(3, 4, device="cuda")
    data[1, 1:3] += 2
    data.flatten()[0] = 5
    data[data > 4] = 7
    assert data.tolist() == [[7, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0]]


WAITS: dict[str, tuple[Callable[[torch.Tensor], object], int]] = {  # what is done, how often the CPU waits
    "sums": (lambda x: (x.sum(0) * 2).argmax(), 0),
    "item": (lambda x: x.sum().item(), 1),
    "float": (lambda x: float(x.max()), 1),
    "if": (lambda x: 1 if x.any() else 0, 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "values in a mask": (lambda x: x[x > 0], 1),
    "a mask that is filled": (lambda x: x.masked_fill_(x > 0, 2), 0),
    "to the CPU": (lambda x: x.cpu(), 1),
    "to the CPU, not waiting": (lambda x: x.to("cpu", non_blocking=True), 0),
    "a list": (lambda x: x.tolist(), 1),
    "synchronize": (lambda x: torch.cuda.synchronize(), 1),
    "an event": (lambda x: torch.cuda.Event().synchronize(), 1),
}


@pytest.mark.parametrize("what", WAITS)
def test_it_counts_when_the_cpu_waits(what: str, cuda: Tally) -> None:
    done, waits = WAITS[what]
    data = there(2, 3)
    cuda.clear()
    done(data)
    assert cuda.count("wait") == waits, cuda.places("wait")
    assert all(place.rsplit(":", 1)[0].endswith("tests/test_pretend_cuda.py") for place in cuda.places("wait"))


def test_it_counts_transfers_and_their_bytes(cuda: Tally) -> None:
    data = torch.ones(5, dtype=torch.float64).to("cuda", torch.float32)
    data.copy_(torch.zeros(5))
    target = torch.empty(5)
    target.copy_(data)
    data.to("cuda")
    assert [(event.kind, event.n_bytes) for event in cuda.events if event.kind != "wait"] == [
        ("to_device", 40),
        ("to_device", 20),
        ("to_host", 20),
    ]


def test_pinned_memory_is_known(cuda: Tally) -> None:
    assert torch.ones(3).pin_memory().is_pinned() and torch.empty(3, pin_memory=True).is_pinned()
    assert not torch.ones(3).is_pinned()


def test_threads_have_it_too(cuda: Tally) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: torch.ones(2).to("cuda").sum().item()).result() == 2
    assert cuda.count("wait") == 1


def test_autocast_rounds_to_half_precision_where_it_is_asked_for() -> None:
    data = torch.randn(1, 2, 9, 8)
    found = {}
    for autocast in (False, True):
        with pretend_cuda(autocast=autocast), torch.inference_mode(), torch.autocast("cuda"):
            output = network().to("cuda")(data.cuda()).cpu()
        found[output.dtype] = output.float()
    assert list(found) == [torch.float32, torch.float16]
    torch.testing.assert_close(found[torch.float16], found[torch.float32], rtol=0.01, atol=0.01)


def state() -> list[object]:
    cudnn = torch.backends.cudnn
    return [
        dict(vars(torch.cuda)), torch.compile, torch.autocast, torch.Tensor.record_stream, threading.Thread.run,
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.flags,
        torch.__future__.get_overwrite_module_params_on_conversion(), torch._C._only_lift_cpu_tensors(),
        torch._C._len_torch_dispatch_stack(),
    ]  # fmt: skip


def test_it_leaves_nothing_behind() -> None:
    before = state()
    with pytest.raises(ZeroDivisionError), pretend_cuda():
        kept = compute_gaussian((4, 6), device=torch.device("cuda"))
        assert kept.device.type == "cuda"
        torch.backends.cudnn.benchmark = True
        raise ZeroDivisionError
    assert state() == before
    assert compute_gaussian.cache_info().currsize == 0
    assert not torch.cuda.is_available()
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda")
    leaf = torch.ones(3, requires_grad=True)
    assert torch.autograd.grad((leaf * 2).sum(), leaf)[0].tolist() == [2, 2, 2]
    with pytest.raises(AssertionError, match="no longer there"):
        kept.cpu()


def test_there_is_one_at_a_time(cuda: Tally) -> None:
    with pytest.raises(RuntimeError, match="already"), pretend_cuda():
        pass
