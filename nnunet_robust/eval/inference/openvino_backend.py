"""Networks run by OpenVINO on a CPU: faster than PyTorch there, and nearly the same logits."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
import weakref
from typing import Any

import torch
from torch import nn

from nnunet_robust.common.errors import UserError, one_line
from nnunet_robust.eval.inference.precision import Choices, Forward

# OpenVINO's name of a type, and of the capability of a CPU that computes in it without emulation.
_TYPES = {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16")}
_CONVERTED: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()  # takes longer than compiling
_LARGEST_ERROR = 0.05  # root mean square, relative; bfloat16 stays below 0.02 on nnU-Net's networks


def _openvino() -> Any:
    # It reports every import and conversion over the network, unless this module is missing: nothing for a hospital.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            'precision "fast" on a CPU needs OpenVINO: pip install "nnunet_robust[cpu]", or take precision "exact"'
        ) from error
    return openvino


def supported_types() -> list[str]:
    """List the types that this CPU computes in by itself, e.g. float32 and bfloat16.

    Raises:
        UserError: OpenVINO is not installed.
    """
    capabilities = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name, (_, capability) in _TYPES.items() if capability in capabilities]


def openvino_forward(network: nn.Module, choices: Choices, probe: torch.Tensor) -> Forward:
    """Convert a network, compile it for any batch size, and make sure that it is still the same network.

    Args:
        network: in evaluation mode, on the CPU; not modified.
        choices: the type to compute in, and the number of threads.
        probe: one tile (1, channels, *patch).

    Raises:
        UserError: OpenVINO is not installed, cannot convert the network, or gives other logits than PyTorch.
    """
    openvino = _openvino()
    network = network.eval()
    kind, _ = _TYPES[choices.inference_type]
    settings = {
        "INFERENCE_PRECISION_HINT": kind,
        "INFERENCE_NUM_THREADS": choices.threads,
        "PERFORMANCE_HINT": "LATENCY",  # all threads on one batch
    }
    pair = torch.cat([probe, probe.flip(-1)])
    try:
        compiled = openvino.Core().compile_model(_converted(network, probe), "CPU", settings)
        request = compiled.create_infer_request()
        wanted, found = network(pair), torch.from_numpy(request.infer(pair.numpy())[0])
    except Exception as error:
        raise UserError(
            f'OpenVINO cannot run {type(network).__name__} ({one_line(error)[:200]}): take precision "exact"'
        ) from error
    difference = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt().clamp(min=1e-12))
    if not difference <= _LARGEST_ERROR:
        raise UserError(
            f"OpenVINO gives other logits than PyTorch for {type(network).__name__} (relative difference "
            f'{difference:.2g}): take precision "exact"'
        )

    def forward(batch: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(request.infer(batch.contiguous().numpy())[0])

    return forward


def _converted(network: nn.Module, probe: torch.Tensor) -> Any:
    """The network as a model of OpenVINO's, for any batch size."""
    if network not in _CONVERTED:
        pair = torch.cat([probe, probe.flip(-1)])  # a batch of 1 would be traced as a constant by some networks
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the tracer's, of shape checks: the patch size is fixed
            # Not checked by running it twice more, as `openvino_forward` compares its logits.
            traced = torch.jit.trace(network, pair, check_trace=False)
            model = _openvino().convert_model(traced, example_input=pair)
        model.reshape([-1, *probe.shape[1:]])
        _CONVERTED[network] = model
    return _CONVERTED[network]
