"""What pyproject.toml cannot say: two files at the root of site-packages that run the hook when Python starts.

`nnunet_robust.start` (PEP 829) is read from Python 3.15 on, and `nnunet_robust.pth` before.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

START = "nnunet_robust.hook:activate\n"
PTH = "import nnunet_robust.hook; nnunet_robust.hook.activate()\n"
# A moved source folder would otherwise print a traceback at every start of Python. importlib.util costs nothing here:
# setuptools' own finder of an editable install has imported it.
EDITABLE_PTH = (
    "import importlib.util; "
    "importlib.util.find_spec('nnunet_robust') and __import__('nnunet_robust.hook').hook.activate()\n"
)


class BuildPyWithHook(build_py):
    """Writes the hook's files into the wheel, so that its RECORD names them and `pip uninstall` removes them."""

    def run(self) -> None:
        """Build as ever, then write the two files."""
        super().run()
        # In editable mode build_lib is thrown away, and install_lib is the wheel.
        root = Path(self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib)
        root.mkdir(parents=True, exist_ok=True)
        (root / "nnunet_robust.start").write_text(START, encoding="utf-8")
        (root / "nnunet_robust.pth").write_text(EDITABLE_PTH if self.editable_mode else PTH, encoding="utf-8")


setup(cmdclass={"build_py": BuildPyWithHook})
