"""What pyproject.toml cannot say: two files at the root of site-packages that run the hook when Python starts.

`nnunet_robust.start` (PEP 829) is read from Python 3.15 on, and `nnunet_robust.pth` before.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

START = "nnunet_robust.hook:activate\n"


def pth(path: str) -> str:
    """The line that `site` runs when Python starts.

    It runs the file itself: neither a package of our name elsewhere on the path nor a missing one matters, and nothing
    has to be imported. Whatever is wrong with the file, every start of Python would print it: `nnunet-robust doctor`
    says it instead. The line is ASCII, as older Pythons read it in the locale's encoding.

    Args:
        path: of hook.py, an expression; `sitedir` is the folder of the .pth file.
    """
    run = (
        "try:\n"
        f" with open({path}, encoding='utf-8') as file: hook = {{'__file__': file.name}}; exec(file.read(), hook)\n"
        " hook['activate']()\n"
        "except Exception: pass"
    )
    return f"import os; exec({run!a})\n"


PTH = pth("os.path.join(sitedir, 'nnunet_robust', 'hook.py')")
EDITABLE_PTH = pth(ascii(str(Path(__file__).resolve().parent / "nnunet_robust" / "hook.py")))


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
