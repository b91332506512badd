"""The file that nnU-Net's external-trainer lookup imports; it hands out the trainers of the installed package.

nnU-Net imports it as a top-level module and drops it from `sys.modules` afterwards: real code here could neither be
pickled nor compiled. It then asks the module for a class by name, which PEP 562 lets us make on demand.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """The trainer class of that name.

    Raises:
        AttributeError: not a name of ours; or another Python, without the package, has inherited the variable.
        UserError: a name of ours that breaks the grammar.
    """
    not_ours = AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.startswith("__"):
        raise not_ours
    try:
        import nnunet_robust.trainers as trainers
    except ModuleNotFoundError as error:
        if error.name == "nnunet_robust":
            raise not_ours from None
        raise
    return trainers.trainer_class(name)
