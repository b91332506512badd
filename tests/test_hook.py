"""The start-up hook, the file that nnU-Net scans, and both as pip installs and removes them."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from nnunet_robust import hook
from nnunet_robust.common.errors import UserError

ROOT = Path(__file__).parent.parent
HOOK_FILES = {"nnunet_robust.pth", "nnunet_robust.start"}


@pytest.mark.parametrize("value", [None, ""])
def test_activate_sets_the_variable(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv(hook.VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(hook.VARIABLE, value)
    assert not hook.is_active()
    hook.activate()
    assert hook.VARIABLE == "nnUNet_extTrainer"
    assert os.environ[hook.VARIABLE] == hook.PLUGIN_FOLDER
    assert hook.is_active()


def test_activate_keeps_the_users_folders_first_and_appends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hook.VARIABLE, os.pathsep.join(["/mine", "/ours too"]))
    hook.activate()
    hook.activate()
    assert os.environ[hook.VARIABLE].split(os.pathsep) == ["/mine", "/ours too", hook.PLUGIN_FOLDER]


def test_a_folder_that_only_starts_like_ours_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hook.VARIABLE, hook.PLUGIN_FOLDER + "_old")
    assert not hook.is_active()


def test_the_plugin_folder_holds_the_one_module() -> None:
    assert [module.name for module in pkgutil.iter_modules([hook.PLUGIN_FOLDER])] == ["nnunet_robust_plugin"]


class Site:
    """A folder like site-packages with the hook's .pth file, as setup.py writes it, and Pythons that start with it."""

    def __init__(self, folder: Path, editable: bool) -> None:
        self.folder = folder
        self.package = (folder.parent / "sources é'\"" if editable else folder) / "nnunet_robust"
        (self.package / "plugin").mkdir(parents=True)
        folder.mkdir(exist_ok=True)
        shutil.copy(ROOT / "nnunet_robust" / "hook.py", self.package)
        if editable:
            shutil.copy(ROOT / "setup.py", self.package.parent)
        file = self.package.parent / "setup.py" if editable else ROOT / "setup.py"
        code = f"import setuptools; setuptools.setup = lambda **_: None; exec(open({str(file)!r}).read())"
        written: dict[str, str] = {"__file__": str(file)}
        exec(code, written)
        (folder / "nnunet_robust.pth").write_text(written["EDITABLE_PTH" if editable else "PTH"], encoding="ascii")

    def start(self, cwd: Path | None = None, **variables: str) -> tuple[str, str]:
        """The variable in a Python that has just started, and what that has printed on its own."""
        code = f"import os, site; site.addsitedir({str(self.folder)!r}); print(os.environ.get({hook.VARIABLE!r}))"
        environment = {key: value for key, value in os.environ.items() if key != hook.VARIABLE} | variables
        command = [sys.executable, "-X", "dev", "-S", "-c", code]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment, cwd=cwd or self.folder.parent
        )
        return done.stdout.strip(), done.stderr


@pytest.fixture(params=["regular", "editable"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(tmp_path / "site", request.param == "editable")


def test_the_pth_file_activates_the_hook(installed: Site) -> None:
    plugin = str(installed.package / "plugin")
    assert installed.start() == (plugin, "")
    assert installed.start(nnUNet_extTrainer="/mine") == (f"/mine{os.pathsep}{plugin}", "")
    assert installed.start(LC_ALL="C", PYTHONUTF8="0")[1] == ""  # whether that path can be named there or not


SPOILT: dict[str, Callable[[Path], object]] = {
    "a removed package": shutil.rmtree,
    "a removed hook": lambda package: (package / "hook.py").unlink(),
    "an empty hook": lambda package: (package / "hook.py").write_text(""),
    "a hook of another Python": lambda package: (package / "hook.py").write_text("match ! :\n"),
    "a hook that cannot be decoded": lambda package: (package / "hook.py").write_bytes(b"# \xff\n"),
    "a hook of zeros": lambda package: (package / "hook.py").write_bytes(b"\0" * 100),
    "a hook that cannot be opened": lambda package: ((package / "hook.py").unlink(), (package / "hook.py").mkdir()),
    "a hook that fails": lambda package: (package / "hook.py").write_text("def activate(): 1 / 0"),
    "a hook that lacks what it needs": lambda package: (package / "hook.py").write_text("import no_such_module"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_whatever_is_wrong_with_the_package_python_starts_in_silence(fault: str, installed: Site) -> None:
    SPOILT[fault](installed.package)
    assert installed.start() == ("None", "")


def test_a_package_of_our_name_elsewhere_is_not_imported(installed: Site, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    (foreign / "nnunet_robust").mkdir(parents=True)
    (foreign / "nnunet_robust" / "__init__.py").write_text("print('it was imported'); raise SystemExit(1)")
    plugin = str(installed.package / "plugin")
    assert installed.start(PYTHONPATH=str(foreign)) == (plugin, "")
    assert installed.start(cwd=foreign) == (plugin, "")


def test_a_working_folder_that_is_gone(installed: Site, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os, site; os.rmdir({str(gone)!r}); site.addsitedir({str(installed.folder)!r})"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=gone, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_start_files_entry_point_resolves() -> None:
    # PEP 829's own resolution, on Pythons that do not read the file yet.
    entry_point = "nnunet_robust.hook:activate"
    assert f'START = "{entry_point}\\n"' in (ROOT / "setup.py").read_text()
    assert pkgutil.resolve_name(entry_point) is hook.activate


@pytest.fixture
def plugin() -> ModuleType:
    """The plug-in, imported as nnU-Net does: a top-level module that `sys.modules` does not keep."""
    path = Path(hook.PLUGIN_FOLDER, "nnunet_robust_plugin.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plugin_hands_out_the_packages_own_classes(plugin: ModuleType) -> None:
    from nnunet_robust.trainers import trainer_class

    for name in ("nnUNetTrainerNoSkip", "nnUNetTrainerNoSkip_bs2_1epochs", "nnUNetTrainer_ps64"):
        found = getattr(plugin, name)
        assert found is trainer_class(name)
        assert found.__module__.startswith("nnunet_robust.")


@pytest.mark.parametrize("name", ["SomebodysTrainer", "__path__", "__wrapped__"])
def test_the_plugin_lacks_names_that_are_not_ours(plugin: ModuleType, name: str) -> None:
    assert not hasattr(plugin, name)


def test_the_plugin_lets_a_broken_name_of_ours_explain_itself(plugin: ModuleType) -> None:
    with pytest.raises(UserError, match="nnUNetTrainerNoSkip_seed1_ps64"):
        hasattr(plugin, "nnUNetTrainerNoSkip_seed1_ps64")


def test_the_plugin_defines_nothing_in_a_python_without_the_package() -> None:
    # -S and -I: no site-packages, no PYTHONPATH, no current folder.
    code = (
        f"import sys; sys.path.insert(0, {hook.PLUGIN_FOLDER!r}); import nnunet_robust_plugin as plugin; "
        "assert not hasattr(plugin, 'nnUNetTrainerNoSkip')"
    )
    subprocess.run([sys.executable, "-S", "-I", "-c", code], check=True)


class Environment:
    """A throw-away virtual environment that has nothing but what `pip install --no-deps` puts there."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site_packages = Path(self.run(code).stdout.strip())

    def pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "-q", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def run(self, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        dropped = (hook.VARIABLE, "PYTHONPATH")
        environment = {key: value for key, value in os.environ.items() if key not in dropped} | variables
        command = [str(self.python), "-c", code]
        # From a folder without our sources: the current folder is on the path of `python -c`.
        cwd = self.python.parent
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=cwd)

    def variable(self, **variables: str) -> str:
        done = self.run(f"import os; print(os.environ.get({hook.VARIABLE!r}))", **variables)
        assert done.stderr == ""
        return done.stdout.strip()

    def files(self) -> set[str]:
        return {path.name for path in self.site_packages.iterdir()} if self.site_packages.exists() else set()


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "environment")


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A copy of what the build needs, as pip builds in the source folder."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "nnunet_robust", folder / "nnunet_robust", ignore=shutil.ignore_patterns("__pycache__"))
    yield folder


@pytest.mark.slow
def test_a_regular_install_activates_the_hook_and_uninstall_leaves_nothing(
    environment: Environment, source: Path
) -> None:
    before = environment.files()
    environment.pip("install", "--no-deps", str(source))
    assert environment.files() >= HOOK_FILES
    plugin_folder = environment.site_packages / "nnunet_robust" / "plugin"
    assert (plugin_folder / "nnunet_robust_plugin.py").is_file()
    assert environment.variable() == str(plugin_folder)
    assert environment.variable(nnUNet_extTrainer="/mine") == f"/mine{os.pathsep}{plugin_folder}"

    # A child process inherits the variable, and runs the hook again.
    child = f"import os; print(os.environ[{hook.VARIABLE!r}])"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    assert environment.run(code).stdout.strip() == str(plugin_folder)

    environment.pip("uninstall", "-y", "nnunet-robust")
    assert environment.files() == before
    assert environment.variable() == "None"


@pytest.mark.slow
def test_an_editable_install_activates_the_hook_and_uninstall_leaves_nothing(
    environment: Environment, source: Path
) -> None:
    before = environment.files()
    environment.pip("install", "--no-deps", "-e", str(source))
    assert environment.files() >= HOOK_FILES
    plugin_folder = source / "nnunet_robust" / "plugin"
    assert environment.variable() == str(plugin_folder)
    assert environment.variable(nnUNet_extTrainer="/mine") == f"/mine{os.pathsep}{plugin_folder}"

    # `variable` asserts an empty stderr: every Python would start with a traceback otherwise.
    moved = source.rename(source.with_name("moved"))
    assert environment.variable() == "None"
    moved.rename(source)

    environment.pip("uninstall", "-y", "nnunet-robust")
    assert environment.files() - {"__pycache__"} == before
    assert environment.variable() == "None"


@pytest.mark.slow
def test_the_sdist_builds_a_wheel_with_the_hook(environment: Environment, source: Path, tmp_path: Path) -> None:
    build = "import setuptools.build_meta as backend; backend.build_sdist('dist')"
    environment.pip("install", "setuptools>=77")
    subprocess.run([str(environment.python), "-c", build], check=True, cwd=source, capture_output=True)
    (sdist,) = (source / "dist").glob("*.tar.gz")
    environment.pip("install", "--no-deps", str(sdist))
    assert environment.files() >= HOOK_FILES
    assert environment.variable() == str(environment.site_packages / "nnunet_robust" / "plugin")
