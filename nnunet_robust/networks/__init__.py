"""Networks as pure torch modules. Nothing here imports nnunetv2."""

from nnunet_robust.networks.decoder import SkipDecoder
from nnunet_robust.networks.dense import DenseDecoder
from nnunet_robust.networks.skips import SKIPS

__all__ = ["SKIPS", "DenseDecoder", "SkipDecoder"]
