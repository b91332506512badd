"""Where nnU-Net keeps things: its three folders, a dataset's name, a model's folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nnunet_robust.common.errors import UserError
from nnunet_robust.common.names import check_name


def nnunet_folder(variable: str) -> Path:
    """Return the folder that `nnUNet_raw`, `nnUNet_preprocessed` or `nnUNet_results` names.

    Raises:
        UserError: the variable is not set, or names no folder.
    """
    value = os.environ.get(variable)
    if not value:
        raise UserError(f"the environment variable {variable} is not set: export {variable}=/path/to/{variable}")
    if not Path(value).is_dir():
        raise UserError(f"{variable}={value} is not a folder: mkdir -p {value}, or export the right one")
    return Path(value)


def is_inside(path: Path, folder: Path) -> bool:
    """Tell whether a path, links and ".." followed, lies in a folder."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a name that no file can have
        return False


def dataset_name(name_or_id: str) -> str:
    """Return the full name of a dataset, e.g. `Dataset004_Hippocampus` for `4`.

    Raises:
        UserError: no dataset, or more than one, has this id.
    """
    roots = [nnunet_folder(variable) for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")]
    known = sorted({path.name for root in roots for path in root.glob("Dataset[0-9][0-9][0-9]_*") if path.is_dir()})
    if name_or_id in known:
        return check_name(name_or_id, "dataset")
    is_id = re.fullmatch("[0-9]{1,9}", name_or_id)
    found = [name for name in known if is_id and int(name[7:10]) == int(name_or_id)]
    if len(found) == 1:
        return check_name(found[0], "dataset")
    if found:
        raise UserError(f"dataset id {name_or_id} is ambiguous: {', '.join(found)}: give the full name")
    raise UserError(f"no dataset {name_or_id!r} in nnU-Net's folders: there are {', '.join(known) or 'none'}")


def model_folder_of(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """Return the folder where nnU-Net keeps a model, be it trained or not."""
    return nnunet_folder("nnUNet_results") / dataset / f"{trainer}__{plans}__{configuration}"


def model_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """Return the folder of a trained model, `nnUNet_results/<dataset>/<trainer>__<plans>__<configuration>`.

    Raises:
        UserError: there is no such folder; says which trained models there are.
    """
    folder = model_folder_of(dataset, trainer, plans, configuration)
    if not folder.is_dir():
        trained = sorted(path.name for path in folder.parent.glob("*__*__*") if path.is_dir())
        start = f"{trainer}__{plans}__"
        others = [name.removeprefix(start) for name in trained if name.startswith(start)]
        meant = f"-c {' or -c '.join(others)}? Or " if others else ""
        raise UserError(
            f"no trained model {folder.name} for {dataset}: there are {', '.join(trained) or 'none'}; "
            f"{meant}train it with nnUNetv2_train {dataset} {configuration} FOLD -tr {trainer} -p {plans}"
        )
    return folder
