"""The names of classes in plans and datasets, checked before nnU-Net imports what they say.

`plans.json` and `dataset.json` name the network, its layers, readers, normalisation and resampling. nnU-Net takes a
dotted name to `pydoc.locate`, which imports any module, and looks a plain one up in a folder of its own, where it takes
whatever the files there have imported. Here every name must be one of a class or function of the kind that is meant.
"""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dynamic_network_architectures
import nnunetv2
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from torch import nn

from nnunet_robust.common.errors import UserError

TRUST = "if you trust whoever made it, add --trust-checkpoints"

# Where the classes of networks and of their layers come from.
_NETWORKS = ("dynamic_network_architectures.", "torch.nn.", "nnunet_robust.networks.")

# Imported by trainers of nnU-Net's, whether the plans declare it or not.
_LAYERS = ("conv_op", "norm_op", "dropout_op", "nonlin")

# Key -> the folder of nnU-Net's in which it looks the name up.
_OF_PLANS = {"image_reader_writer": "imageio", "label_manager": "utilities.label_handling"}
_OF_CONFIGURATION = {
    "preprocessor_name": "preprocessing",
    "normalization_schemes": "preprocessing.normalization",
    "resampling_fn_data": "preprocessing.resampling",
    "resampling_fn_seg": "preprocessing.resampling",
    "resampling_fn_probabilities": "preprocessing.resampling",
}
_OF_DATASET = {"overwrite_image_reader_writer": "imageio"}


def check_plans(plans: Mapping[str, Any], where: Path) -> None:
    """Refuse plans that name what is none of nnU-Net's classes, nor a network's.

    Names that nothing has are left to nnU-Net, which says so; so are plans that are otherwise none.

    Args:
        plans: as in `plans.json`.
        where: the file, for the message.

    Raises:
        UserError: says which name, and of what.
    """
    _check(plans, _OF_PLANS, where, TRUST)
    for configuration in _dictionaries(plans.get("configurations")):
        _check(configuration, _OF_CONFIGURATION, where, TRUST)
        architecture = configuration.get("architecture")
        if isinstance(architecture, Mapping):
            for key, name in _imported(architecture):
                if not _is_layer(name):
                    raise UserError(_refusal(where, key, name, TRUST))


def check_dataset(dataset_json: Mapping[str, Any], where: Path) -> None:
    """Refuse a `dataset.json` that names a reader which is none of nnU-Net's, see `check_plans`."""
    _check(dataset_json, _OF_DATASET, where, "take it out of the file")


def nnunets_own(name: str, part: str) -> Any:
    """Find a class or a function of nnU-Net's by its name, as nnU-Net does.

    Args:
        name: e.g. "NibabelIO".
        part: the package in `nnunetv2` that nnU-Net looks through, e.g. "imageio".

    Raises:
        UserError: there is none, or nnU-Net would find what is not its own.
    """
    found = _look_up(name, part)
    if found is None or not _is_nnunets(found):
        raise UserError(f"nnU-Net has no {name!r} in nnunetv2.{part}")
    return found


def _check(given: Mapping[str, Any], parts: Mapping[str, str], where: Path, mend: str) -> None:
    for key, part in parts.items():
        for name in _texts(given.get(key)):
            if isinstance(name, str) and (found := _look_up(name, part)) is not None and not _is_nnunets(found):
                raise UserError(_refusal(where, key, name, mend))


def _look_up(name: str, part: str) -> Any:
    folder = Path(nnunetv2.__path__[0], *part.split("."))
    return recursive_find_python_class(str(folder), name, f"nnunetv2.{part}")


def _is_nnunets(found: Any) -> bool:
    """Whether it is a class or function that nnU-Net defines, not one that a file of nnU-Net's has imported."""
    return (inspect.isclass(found) or inspect.isfunction(found)) and found.__module__.startswith("nnunetv2.")


def _imported(architecture: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The names that nnU-Net gives to `pydoc.locate`, each with its key."""
    keywords, declared = architecture.get("arch_kwargs"), architecture.get("_kw_requires_import")
    named = {"network_class_name": architecture.get("network_class_name")}
    if isinstance(keywords, Mapping):
        wanted = (*_LAYERS, *(declared if isinstance(declared, Iterable) else ()))  # the letters of a text, too
        named |= {key: keywords.get(key) for key in wanted if isinstance(key, str)}
    yield from ((key, name) for key, name in named.items() if isinstance(name, str))


def _texts(given: Any) -> list[Any]:
    """What nnU-Net goes through where it expects names: the keys of a mapping, too."""
    return [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else []


def _is_layer(name: str) -> bool:
    """Whether a dotted name is that of a network or a layer."""
    if not name.startswith(_NETWORKS):
        return False
    try:
        found = pydoc.locate(name)
    except pydoc.ErrorDuringImport:
        return False
    if found is None:  # it moved: nnU-Net looks its last part up
        folder = Path(dynamic_network_architectures.__path__[0], "architectures")
        last = name.split(".")[-1]
        found = recursive_find_python_class(str(folder), last, "dynamic_network_architectures.architectures")
    return found is None or (
        inspect.isclass(found) and issubclass(found, nn.Module) and found.__module__.startswith(_NETWORKS)
    )


def _dictionaries(given: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(given, Mapping):
        yield from (one for one in given.values() if isinstance(one, Mapping))


def _refusal(where: Path, key: str, name: str, mend: str) -> str:
    return (
        f"{where}: {key} is {name!r}, which is no class of nnU-Net's, nor of its networks, and could run code when "
        f"nnU-Net imports it; {mend}"
    )
