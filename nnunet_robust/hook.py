"""Makes nnU-Net find our trainers: runs at every start of Python, from `nnunet_robust.pth` (see setup.py).

Imports nothing but `os`, which Python has loaded by then, so that it costs no measurable start-up time. Nothing else of
the package is there when it runs.
"""

import os

VARIABLE = "nnUNet_extTrainer"
# os.path, as pathlib would have to be imported at every start of Python.
PLUGIN_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "plugin")  # noqa: PTH100, PTH118, PTH120


def activate() -> None:
    """Append `PLUGIN_FOLDER` to the folders in which nnU-Net looks for trainers, unless it is there.

    What the user has put into the variable stays, and comes first. Child processes inherit the variable.
    """
    if not is_active():
        os.environ[VARIABLE] = os.pathsep.join(filter(None, (os.environ.get(VARIABLE), PLUGIN_FOLDER)))


def is_active() -> bool:
    """Whether nnU-Net looks for trainers in `PLUGIN_FOLDER`."""
    return PLUGIN_FOLDER in os.environ.get(VARIABLE, "").split(os.pathsep)
