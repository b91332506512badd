"""Faults on purpose: hundreds of attempts to make the commands fail badly, counted.

    python benchmarks/faults.py [--only KIND ...] [--workspace FOLDER]

A workspace is made by the commands themselves: the quick demo's datasets, models, sweeps and study, a calibration, a
reference and a stream. Each attempt gets a copy of it, a fault (a row of the tables below), and a command in a process
of its own, forked from one that has imported everything, so that no start-up counts. Counted are

- tracebacks, and messages that are not one line,
- attempts of more than 5 seconds, and those that were stopped after 60,
- losses: a file of the copy that was changed or removed, or a new file that was left behind by a command that failed.

Read-only folders and full disks are mounted in a namespace of the process, which needs root on Linux; elsewhere these
attempts are left out, and the count says so.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

SECONDS = 5.0
START_UP = 10.0
STOPPED = 60.0
SWEEP = "demo/sweeps/smoke-501-2d"
MODELS = "demo/nnUNet_results/Dataset501_TextureBrickGravelA10"
MODEL = f"{MODELS}/nnUNetTrainer_st5_1epochs_5iters_seed1__nnUNetPlans__2d"
OTHER = f"{MODELS}/nnUNetTrainerNoSkip_st5_1epochs_5iters_seed1__nnUNetPlans__2d"
CHECKPOINT = f"{MODEL}/fold_0/checkpoint_final.pth"
RAW = "demo/nnUNet_raw/Dataset501_TextureBrickGravelA10"
CPU = "-device cpu --disable-tta"
NO_BYTES = b""
Change = Callable[[], None]  # made in the copy, which is the working folder


@dataclass(frozen=True)
class Attempt:
    """A command that meets a fault.

    Attributes:
        kind: heading in the table of counts.
        fault: in words.
        arguments: of `nnunet-robust`.
        change: what is done to the copy before.
        around: what is done in the process before, as mounting a full disk.
        may_pass: whether the fault may be harmless: exit 0 is right, too.
        outputs: files and folders that a command that succeeds, or gets some way, may make or change.
        mounts: whether `around` mounts something.
        fresh: whether Python is to start anew, as how it starts matters.
    """

    kind: str
    fault: str
    arguments: list[str]
    change: Change = lambda: None
    around: Change = lambda: None
    may_pass: bool = False
    outputs: tuple[str, ...] = ("new",)
    mounts: bool = False
    fresh: bool = False


@dataclass
class Outcome:
    """What came of an attempt."""

    attempt: Attempt
    code: int
    seconds: float
    printed: str
    errors: str
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def is_slow(self) -> bool:
        """Whether a fault took too long to be told."""
        return self.code in (1, 2) and self.seconds > SECONDS + (START_UP if self.attempt.fresh else 0)

    def faults(self) -> list[str]:
        """What is wrong with it; empty where nothing is."""
        found = []
        everything = self.printed + self.errors
        if "Traceback" in everything or "Exception ignored" in everything:
            found.append("traceback")
        if self.code == 2 and "error: " in self.errors:
            lines = [line for line in self.errors.splitlines() if line.startswith("error: ")]
            last = self.errors.rstrip("\n").splitlines()[-1]
            if len(lines) != 1 or last != lines[0]:
                found.append("not one line")
        if self.code not in ((0, 1, 2, 3) if self.attempt.may_pass else (1, 2)):
            found.append(f"exit {self.code}")
        if self.is_slow():
            found.append(f"{self.seconds:.1f} s")
        found += [f"lost {name}" for name in self.lost] + [f"left {name}" for name in self.left]
        return found


# What may be wrong with the place of an output. Each is a name, how to make it, and what to do in the process.


def mount(kind: str, target: str, options: str, flags: int = 0, source: str = "none") -> None:
    """Mount in this process's own namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()):
        raise OSError(ctypes.get_errno(), "mount", target)


def private() -> None:
    """Mounts of this process are its own from here on."""
    os.unshare(os.CLONE_NEWNS) if hasattr(os, "unshare") else ctypes.CDLL(None).unshare(0x00020000)
    mount("", "/", "", (1 << 18) | (1 << 14))  # MS_PRIVATE | MS_REC


def read_only(folder: str) -> Change:
    """Make a folder of the copy read-only."""

    def change() -> None:
        private()
        mount("", folder, "", 1 << 12, folder)  # MS_BIND
        mount("", folder, "", (1 << 12) | (1 << 5) | 1, folder)  # MS_BIND | MS_REMOUNT | MS_RDONLY

    return change


def full(folder: str) -> Change:
    """Mount a disk of 16 kB, which is full, over a folder of the copy."""

    def change() -> None:
        private()
        mount("tmpfs", folder, "size=16k")
        with Path(folder, ".filling").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    return change


def loop() -> None:
    Path("loop").symlink_to("loop")


PLACES: dict[str, tuple[str, Change, Change]] = {
    "a read-only folder": ("locked/out", lambda: Path("locked").mkdir(), read_only("locked")),
    "a full disk": ("full/out", lambda: Path("full").mkdir(), full("full")),
    "below a file": ("there/out", lambda: Path("there").write_text("x"), lambda: None),
    "a loop of links": ("loop/out", loop, lambda: None),
    "a link to nothing": ("dangling/out", lambda: Path("dangling").symlink_to("/nonexistent/place"), lambda: None),
    "a device": ("/dev/full/out", lambda: None, lambda: None),
    "/proc": ("/proc/nothing/out", lambda: None, lambda: None),
    "a name of 300 letters": ("x" * 300, lambda: None, lambda: None),
    "a path of 5000 letters": ("/".join(["y" * 100] * 50), lambda: None, lambda: None),
    "an empty name": ("", lambda: None, lambda: None),
}
OUTPUTS: dict[str, str] = {
    f"sweep -m {MODEL} -m {OTHER} --perturb gaussian_blur --levels 1 {CPU} -o": "",
    f"report {SWEEP} -o": "",
    f"report {SWEEP} --format csv json -o": "",
    f"complexity -d 501 -i {RAW}/imagesTs -l {RAW}/labelsTs -o": ".csv",
    f"calibrate -m {MODEL} -i {RAW}/imagesTs -l {RAW}/labelsTs -device cpu -o": ".json",
    f"apply -m {MODEL} -i {RAW}/imagesTs --calibration calibration.json -device cpu -o": "",
    f"qa -m {MODEL} -i {RAW}/imagesTs -device cpu -o": "",
    f"denoise -m {MODEL} -i {RAW}/imagesTs --always -o": "",
    f"recommend -i {RAW}/imagesTs --from {SWEEP} --json": ".json",
    f"monitor fit -m {MODEL} -i {RAW}/imagesTs -device cpu -o": ".json",
    f"monitor check reference.json -m {MODEL} -i {RAW}/imagesTs -device cpu -o": "",
    "study run demo/study.yaml -o": "",
    "study init smoke -o": ".yaml",
    "demo --quick -o": "",
}


def outputs() -> Iterator[Attempt]:
    """Every command, every place that cannot be written."""
    for command, ending in OUTPUTS.items():
        for fault, (place, change, around) in PLACES.items():
            where = place + ending if place else place
            yield Attempt(
                "outputs", f"{fault}: {command.split()[0]}", [*command.split(), where], change, around,
                mounts=fault in ("a read-only folder", "a full disk"),
            )  # fmt: skip
        wrong = ("a file where a folder goes", lambda: Path("taken").write_text("mine"))
        if ending:
            wrong = ("a folder where a file goes", lambda ending=ending: Path(f"taken{ending}").mkdir())
        yield Attempt("outputs", f"{wrong[0]}: {command.split()[0]}", [*command.split(), f"taken{ending}"], wrong[1])
    for command in (f"report {SWEEP}", f"report {SWEEP} --format png"):
        yield Attempt(
            "outputs", f"a colleague's results, read-only: {command.split()[-1]}", command.split(),
            around=read_only("demo/sweeps"), mounts=True,
        )  # fmt: skip
    yield Attempt(
        "outputs", "a colleague's results, read-only, and -o", f"report {SWEEP} -o new".split(),
        around=read_only("demo/sweeps"), may_pass=True, mounts=True,
    )  # fmt: skip


def streams() -> Iterator[Attempt]:
    """Standard streams that are closed or full."""

    def closed(number: int) -> Change:
        return lambda: os.close(number)

    def to_full(number: int) -> Change:
        return lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), number)

    def broken(number: int) -> Change:
        def change() -> None:
            read, write = os.pipe()
            os.close(read)
            os.dup2(write, number)

        return change

    commands = ("perturbations", "trainers", "--help", "doctor", f"report {SWEEP} -o new", "study status demo --once",
                "sweep -o new --perturb nothing")  # fmt: skip
    for command in commands:
        for name, make in (("closed", closed), ("/dev/full", to_full), ("a broken pipe", broken)):
            for number, stream in ((1, "output"), (2, "error")):
                yield Attempt("streams", f"standard {stream} {name}: {command}", command.split(),
                              around=make(number), may_pass=True, fresh=True)  # fmt: skip


# What may be wrong with a file that others touched.


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: NO_BYTES,
    "cut": cut,
    "a list": lambda data: b"[]",
    "null": lambda data: b"null",
    "a number": lambda data: b"17",
    "UTF-16": lambda data: data.decode("utf-8", "replace").encode("utf-16"),
    "Latin-1": lambda data: b"\xe9\xff" + data,
    "binary": lambda data: bytes(range(256)) * 8,
    "nested deeply": lambda data: b"[" * 100_000,
    "an empty object": lambda data: b"{}",
    "a number of 5000 digits": lambda data: b'{"version": ' + b"9" * 5000 + b"}",
    "NUL bytes": lambda data: data[:100] + bytes(50) + data[150:],
}
CSV_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: NO_BYTES,
    "cut": cut,
    "UTF-16": DAMAGES["UTF-16"],
    "Latin-1": lambda data: data.replace(b"gaussian", b"g\xe4ussian"),
    "semicolons": lambda data: data.replace(b",", b";"),
    "BOM": lambda data: b"\xef\xbb\xbf" + data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "a column less": lambda data: b"\n".join(line.partition(b",")[2] for line in data.split(b"\n")),
    "a foreign column": lambda data: b"\n".join(line and line + b",x" for line in data.split(b"\n")),
    "words for numbers": lambda data: data.replace(b"0.", b"nought."),
    "the header alone": lambda data: data.partition(b"\n")[0] + b"\n",
    "NUL bytes": DAMAGES["NUL bytes"],
    "binary": DAMAGES["binary"],
}
READERS: dict[str, str] = {
    f"{SWEEP}/manifest.json": f"report {SWEEP} -o new",
    "calibration.json": f"apply -m {MODEL} -i {RAW}/imagesTs --calibration calibration.json -device cpu -o new",
    "reference.json": f"monitor check reference.json -m {MODEL} -i {RAW}/imagesTs -device cpu -o new",
    "stream/stream.json": f"monitor check reference.json -m {MODEL} -i {RAW}/imagesTs -device cpu -o stream",
    "demo/.study/jobs.json": "study status demo --once",
    f"{MODEL}/dataset.json": f"qa -m {MODEL} -i {RAW}/imagesTs -device cpu -o new",
    f"{MODEL}/plans.json": f"qa -m {MODEL} -i {RAW}/imagesTs -device cpu -o new",
    f"{RAW}/dataset.json": "complexity -d 501 -o new.csv",
}
CSV_READERS: dict[str, str] = {
    f"{SWEEP}/results.csv": f"report {SWEEP} -o new",
    f"{SWEEP}/inputs.csv": f"report {SWEEP} -o new",
    f"{SWEEP}/inputs.csv ": f"recommend -i {RAW}/imagesTs --from {SWEEP}",
    "series.csv": f"sweep -m {MODEL} {CPU} -o new --series series.csv",
}
PICTURE_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: NO_BYTES,
    "cut": cut,
    "text": lambda data: b"no picture",
    "30000 x 30000": lambda data: huge_png(),
}


def huge_png() -> bytes:
    """A PNG of 30000 x 30000 pixels, in few bytes."""
    import io
    import zlib

    made = io.BytesIO(b"")
    small = io.BytesIO()
    Image.new("L", (1, 1)).save(small, "png")
    data = small.getvalue()
    header = b"IHDR" + (30000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    made.write(data[:8] + len(header[4:]).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big"))
    pixels = b"IDAT" + zlib.compress(bytes(30001) * 30000, 9)
    made.write(len(pixels[4:]).to_bytes(4, "big") + pixels + zlib.crc32(pixels).to_bytes(4, "big"))
    return made.getvalue() + data[-12:]


def overwrite(path: str, damage: Callable[[bytes], bytes]) -> Change:
    """Replace a file of the copy, which may be a link to the workspace's own."""

    def change() -> None:
        file = Path(path.strip())
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(damage(data))

    return change


def damaged() -> Iterator[Attempt]:
    """Every file that is read, every damage."""
    for table, damages in ((READERS, DAMAGES), (CSV_READERS, CSV_DAMAGES)):
        for path, command in table.items():
            for name, damage in damages.items():
                yield Attempt(
                    "damaged files", f"{name}: {path.strip()}", command.split(), overwrite(path, damage),
                    may_pass=True, outputs=("new", "stream", "new.csv", "new.png"),
                )  # fmt: skip
            yield Attempt(
                "damaged files", f"a folder: {path.strip()}", command.split(),
                lambda path=path: (Path(path.strip()).unlink(), Path(path.strip()).mkdir()), outputs=("new", "stream"),
                may_pass=True,
            )  # fmt: skip
    pictures = sorted(path for path in Path(SWEEP, "pictures").rglob("*.png"))
    for name, damage in PICTURE_DAMAGES.items():
        yield Attempt("damaged files", f"{name}: a picture of a sweep", f"report {SWEEP} -o new".split(),
                      overwrite(str(pictures[0]), damage), may_pass=True)  # fmt: skip
        image = sorted(Path(RAW, "imagesTs").glob("*.png"))[0]
        yield Attempt("damaged files", f"{name}: a new image",
                      f"qa -m {MODEL} -i {RAW}/imagesTs -device cpu -o new".split(),
                      overwrite(str(image), damage), may_pass=True)  # fmt: skip


GOOD_STUDY = """\
study: {name}
datasets:
  - {{ id: 901, synthesize: textures, parameters: {{ cases: 8, test_cases: 3, size: 64 }} }}
trainers: [nnUNetTrainer]
epochs: 1
{more}
"""
STUDIES: dict[str, str | bytes] = {
    "an alias bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)),
    "a bomb of mappings": "a: &a {x: 1, y: 2}\n"
    + "".join(
        f"{b}: &{b} {{{', '.join(f'k{n}: *{a}' for n in range(9))}}}\n"
        for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    ),
    "a list that holds itself": "study: &x [*x]\n",
    "a mapping that holds itself": "study: &x\n  again: *x\n",
    "a merge with itself": "study: &x\n  <<: *x\n",
    "10,000 lists in lists": "[" * 10_000,
    "10,000 mappings in mappings": "{a: " * 10_000,
    "deep by indentation": "\n".join(" " * n + "a:" for n in range(3000)),
    "a Python object": "study: !!python/object/apply:os.system [touch ran]\n",
    "an unknown tag": "study: !mine x\n",
    "binary": "study: !!binary c3R1ZHk=\n",
    "a set": "study: !!set {a, b}\n",
    "control characters": b"study: a\x01b\x07\n",
    "a bell in quotes": 'study: "a\\ab"\n',
    "a name that ends in a newline": GOOD_STUDY.format(name='"name\\n"', more=""),
    "a name with dots": GOOD_STUDY.format(name='"../name"', more=""),
    "a name of 300 letters": GOOD_STUDY.format(name="n" * 300, more=""),
    "a complex key": "? [a, b]\n: c\n",
    "a mapping as key": "? {a: b}\n: c\n",
    "a date that does not exist": "study: 2024-02-31\n",
    "a time that does not exist": "study: 2024-01-01 99:99:99\n",
    "a number of 5000 digits": GOOD_STUDY.format(name="x", more="retries: " + "9" * 5000),
    "a hexadecimal number of 5000 digits": GOOD_STUDY.format(name="x", more="retries: 0x" + "f" * 5000),
    "a number in base 60": GOOD_STUDY.format(name="x", more="retries: 1:99:99"),
    "infinity": GOOD_STUDY.format(name="x", more="retries: .inf"),
    "not a number": GOOD_STUDY.format(name="x", more="resources: {train: {hours: .nan}}"),
    "infinite hours": GOOD_STUDY.format(name="x", more="resources: {train: {hours: .inf}}"),
    "levels that are no numbers": GOOD_STUDY.format(
        name="x", more="sweeps: [{name: a, perturbations: {gaussian_blur: [.nan]}}]"
    ),
    "a sweep's name with a newline": GOOD_STUDY.format(
        name="x", more='sweeps: [{name: "a\\n", perturbations: [gaussian_blur]}]'
    ),
    "keys twice": "study: a\nstudy: b\n",
    "two documents": "study: a\n---\nstudy: b\n",
    "a tab": "study:\n\t- a\n",
    "empty": "",
    "a comment": "# nothing\n",
    "a list": "- a\n- b\n",
    "a text": "study\n",
    "null": "null\n",
    "UTF-16": GOOD_STUDY.format(name="x", more="").encode("utf-16"),
    "Latin-1": b"study: caf\xe9\n",
    "NUL bytes": b"study: a\x00b\n",
    "binary data": bytes(range(256)) * 4,
    "20 MB": b"# " + b"x" * 20_000_000,
    "an anchor that nobody made": "study: *nobody\n",
    "a quote that nobody closes": 'study: "abc\n',
    "an environment of lists": GOOD_STUDY.format(name="x", more="environment: {A: [1, 2]}"),
    "an environment with a newline": GOOD_STUDY.format(name="x", more='environment: {A: "1\\n2"}'),
    "an environment with a NUL": GOOD_STUDY.format(name="x", more='environment: {A: "1\\0"}'),
    "a variable with =": GOOD_STUDY.format(name="x", more='environment: {"A=B": 1}'),
    "unknown keys": GOOD_STUDY.format(name="x", more="surprise: 1"),
    "a key that is a number": GOOD_STUDY.format(name="x", more="1: 1"),
    "a key that is null": GOOD_STUDY.format(name="x", more="~: 1"),
    "a trainer with a path": GOOD_STUDY.format(name="x", more="").replace("[nnUNetTrainer]", '["../nnUNetTrainer"]'),
    "a trainer of 5000 digits": GOOD_STUDY.format(name="x", more="").replace(
        "[nnUNetTrainer]", f"[nnUNetTrainer_bs{'9' * 5000}]"
    ),
}


def studies() -> Iterator[Attempt]:
    """Every bad study.yaml."""
    for name, text in STUDIES.items():
        data = text if isinstance(text, bytes) else text.encode()
        yield Attempt("study.yaml", name, ["study", "run", "bad.yaml", "--dry-run"],
                      lambda data=data: Path("bad.yaml").write_bytes(data), outputs=())  # fmt: skip
    yield Attempt("study.yaml", "a folder", ["study", "run", "demo", "--dry-run"], outputs=())
    yield Attempt("study.yaml", "a pipe", ["study", "run", "pipe.yaml", "--dry-run"],
                  lambda: os.mkfifo("pipe.yaml"), outputs=())  # fmt: skip
    yield Attempt("study.yaml", "/dev/zero", ["study", "run", "/dev/zero", "--dry-run"], outputs=())


NUMBERS = ("nan", "inf", "-1", "-inf", "1e400", "9" * 5000, "0x10", "", "1e-320")
NUMBER_OPTIONS: dict[str, str] = {
    "--tolerance-mm": f"sweep -o new -m {MODEL} {CPU} --perturb gaussian_blur --levels 1",
    "--levels": f"sweep -o new -m {MODEL} {CPU} --perturb gaussian_blur",
    "--replicates": f"sweep -o new -m {MODEL} {CPU} --perturb gaussian_noise --levels 0.1",
    "--seed": f"sweep -o new -m {MODEL} {CPU} --perturb gaussian_noise --levels 0.1",
    "--attack-steps": f"sweep -o new -m {MODEL} {CPU} --perturb pgd --levels 0.01",
    "--workers": f"sweep -o new -m {MODEL} {CPU} --perturb gaussian_blur --levels 1",
    "--shard": f"sweep -o new -m {MODEL} {CPU} --perturb gaussian_blur --levels 1",
    "--tile-size": f"sweep -o new -m {MODEL} {CPU}",
    "--margin": f"report {SWEEP} -o new",
    "--alpha": f"calibrate -o new.json -m {MODEL} -i {RAW}/imagesTs -l {RAW}/labelsTs -device cpu",
    "--rate": f"monitor fit -o new.json -m {MODEL} -i {RAW}/imagesTs -device cpu",
}


def numbers() -> Iterator[Attempt]:
    """Numbers that are none, or too large."""
    for option, command in NUMBER_OPTIONS.items():
        for value in NUMBERS:
            shown = value if len(value) < 20 else "5000 digits"
            # A number that can be used may be given: the work is small.
            usable = (option, value) in {("--margin", "1e-320"), ("--levels", "1e-320"), ("--tolerance-mm", "1e-320")}
            yield Attempt("numbers", f"{option} {shown!r}", [*command.split(), option, value], may_pass=usable)
    for command in (
        "synthesize textures --id 801 --size 1000000", "synthesize textures --id 801 --cases 1000000000",
        "synthesize volumes --id 801 --size 100000", "synthesize volumes --id 801 --spacing nan 1 1",
        "synthesize volumes --id 801 --radius nan 3", "synthesize volumes --id 801 --radius 3 inf",
        "synthesize textures --id 801 --alpha nan", f"synthesize textures --id {'9' * 5000}",
        "synthesize textures --id 0", "synthesize textures --id 801 --seed -1",
        f"trainers nnUNetTrainer_bs{'9' * 5000}", f"trainers nnUNetTrainer_seed{'9' * 5000}",
        f"trainers nnUNetTrainer_bs{'9' * 30}_ps64 -d 501", "trainers nnUNetTrainer_ps99999 -d 501",
        f"trainers nnUNetTrainer_epochs{'9' * 5000}", "trainers nnUNetTrainer_ps0 -d 501",
        f"complexity -d {'9' * 5000} -o new.csv", f"sweep -d 501 -tr nnUNetTrainer -f {'9' * 5000} -o new",
        f"convert busi {RAW} --id 801 --test-share nan", f"convert busi {RAW} --id 801 --cases -3",
    ):  # fmt: skip
        shown = " ".join(word if len(word) < 60 else "…" for word in command.split())
        yield Attempt("numbers", shown, command.split())


def renamed(text: str) -> Change:
    """Give a test image and its label another name."""

    def change() -> None:
        image = sorted(Path(RAW, "imagesTs").glob("*.png"))[0]
        label = Path(RAW, "labelsTs", image.name.replace("_0000.png", ".png"))
        image.rename(image.with_name(f"{text}_0000.png"))
        label.rename(label.with_name(f"{text}.png"))

    return change


def edited(path: str, edit: Callable[[dict], None]) -> Change:
    """Change a JSON file."""

    def damage(data: bytes) -> bytes:
        content = json.loads(data)
        edit(content)
        return json.dumps(content).encode()

    return overwrite(path, damage)


def text() -> Iterator[Attempt]:
    """Names that are no words."""
    images = f"-i {RAW}/imagesTs -l {RAW}/labelsTs"
    names = ("a\nb", "a\tb", "a\x1b[31mb", "$x^2$", "<script>", "a b", "ä", "\U0001f600", "..", "-rf", "a\u202eb", "%s",
             "=1+1", "a" * 240)  # fmt: skip
    for name in names:
        for command in (
            f"sweep -m {MODEL} {CPU} {images} -o new --perturb gaussian_blur --levels 1",
            f"qa -m {MODEL} -i {RAW}/imagesTs -device cpu -o new",
        ):
            yield Attempt("text", f"a case called {name[:20]!r}: {command.split()[0]}", command.split(), renamed(name),
                          may_pass=True)  # fmt: skip
    for name in ("a\nb", "$x^2$", "<script>alert(1)</script>", "\\frac{", "$\\frac{", "", "a" * 5000, "..", "\x00"):
        data = name.encode()

        def relabelled(data: bytes = data) -> None:
            quoted = b'"' + data.replace(b'"', b'""') + b'"' if b"\n" in data else data
            overwrite(f"{SWEEP}/results.csv", lambda old: old.replace(b",foreground,", b"," + quoted + b","))()

        yield Attempt("text", f"a structure called {name[:20]!r}", f"report {SWEEP} -o new --format html png".split(),
                      relabelled, may_pass=True)  # fmt: skip
    for path in ("../../../calibration.json", "/etc/passwd", "..", "a\nb"):

        def outside(path: str = path) -> None:
            overwrite(f"{SWEEP}/results.csv", lambda old: old.replace(b"tex_", path.encode() + b"/tex_"))()
            overwrite(f"{SWEEP}/inputs.csv", lambda old: old.replace(b"tex_", path.encode() + b"/tex_"))()

        yield Attempt("text", f"cases below {path!r} in results.csv", f"report {SWEEP} -o new".split(), outside,
                      may_pass=True)  # fmt: skip


class _Runs:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


def malicious_checkpoint() -> None:
    Path(CHECKPOINT).unlink()
    Path(CHECKPOINT).write_bytes(pickle.dumps({"network_weights": _Runs()}))


def malicious_zip() -> None:
    import torch

    Path(CHECKPOINT).unlink()
    torch.save({"network_weights": {}, "trainer_name": _Runs()}, CHECKPOINT)


EVIL = "evil.Network"


def architecture_of(plans: dict) -> dict:
    return plans["configurations"]["2d"]["architecture"]


def plans_with(**architecture: object) -> Change:
    """Another network in a model's plans."""
    return edited(f"{MODEL}/plans.json",
                  lambda plans: architecture_of(plans).update(architecture))  # fmt: skip


def trust() -> Iterator[Attempt]:
    """What others may have put into what is loaded; nothing of it may run: there is no file `ran`."""
    commands = (
        f"sweep -m {MODEL} {CPU} -o new --perturb gaussian_blur --levels 1",
        f"qa -m {MODEL} -i {RAW}/imagesTs -device cpu -o new",
        f"apply -m {MODEL} -i {RAW}/imagesTs --calibration calibration.json -device cpu -o new",
        f"calibrate -m {MODEL} -i {RAW}/imagesTs -l {RAW}/labelsTs -device cpu -o new.json",
        f"monitor fit -m {MODEL} -i {RAW}/imagesTs -device cpu -o new.json",
        f"denoise -m {MODEL} -i {RAW}/imagesTs --from {SWEEP} -o new",
    )
    module = "import os\nos.system('touch ran')\nclass Network: pass\n"
    faults: dict[str, Change] = {
        "a pickle": malicious_checkpoint,
        "a pickle in a zip": malicious_zip,
        "a class of another module in the plans": lambda: (
            Path("evil.py").write_text(module), plans_with(network_class_name=EVIL)(),
        ),
        "subprocess in the plans": plans_with(network_class_name="subprocess.Popen"),
        "an operator from elsewhere": lambda: (
            Path("evil.py").write_text(module),
            edited(f"{MODEL}/plans.json", lambda plans: architecture_of(plans)["arch_kwargs"].update(conv_op=EVIL))(),
        ),
        "no checkpoint": lambda: Path(CHECKPOINT).write_bytes(b"") if not Path(CHECKPOINT).unlink() else None,
        "half a checkpoint": overwrite(CHECKPOINT, lambda data: data[: len(data) // 2]),
        "a text": overwrite(CHECKPOINT, lambda data: b"no checkpoint"),
    }  # fmt: skip
    for fault, change in faults.items():
        for command in commands:
            yield Attempt("trust", f"{fault}: {command.split()[0]}", command.split(), change,
                          around=lambda: sys.path.insert(0, ""))  # fmt: skip


ENVIRONMENTS = {
    "nnUNet_n_proc_DA": ("abc", "0", "-1"), "nnUNet_def_n_proc": ("abc", "0"), "nnUNet_compile": ("maybe",),
    "nnUNet_raw": ("", "/nonexistent", "/dev/null", "/proc/self/mem"), "nnUNet_results": ("/nonexistent",),
    "COLUMNS": ("0", "abc", "-5", "9" * 400), "MPLBACKEND": ("TkAgg", "nonsense"), "TERM": ("", "dumb", "nonsense"),
    "TMPDIR": ("/nonexistent",), "HOME": ("/nonexistent", ""), "LC_ALL": ("C", "nonsense"), "LANG": ("xx_YY",),
    "PYTHONIOENCODING": ("ascii",), "CUDA_VISIBLE_DEVICES": ("", "99"), "NO_COLOR": ("1",), "FORCE_COLOR": ("1",),
    "MPLCONFIGDIR": ("/dev/null",),
}  # fmt: skip


def environment() -> Iterator[Attempt]:
    """Variables of the shell."""
    for name, values in ENVIRONMENTS.items():
        for value in values:
            for command in ("perturbations", f"report {SWEEP} -o new --format png"):
                yield Attempt("environment", f"{name}={value[:20]!r}: {command.split()[0]}", command.split(),
                              around=lambda name=name, value=value: os.environ.__setitem__(name, value),
                              may_pass=True)  # fmt: skip


KINDS: dict[str, Callable[[], Iterator[Attempt]]] = {
    "outputs": outputs, "streams": streams, "damaged files": damaged, "study.yaml": studies, "numbers": numbers,
    "text": text, "trust": trust, "environment": environment,
}  # fmt: skip


# The workspace, and the attempts one by one.


def make_workspace(folder: Path) -> None:
    """Make what the attempts damage, by the commands themselves; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    test = f"-i {RAW}/imagesTs"
    steps = {
        f"{SWEEP}/report.html": "demo --quick -o demo",
        "calibration.json": f"calibrate -m {MODEL} {test} -l {RAW}/labelsTs -device cpu -o calibration.json",
        "reference.json": f"monitor fit -m {MODEL} {test} -device cpu -o reference.json",
        "stream/stream.json": f"monitor check reference.json -m {MODEL} {test} -device cpu -o stream",
    }
    for made, command in steps.items():
        if not Path(made).exists():
            subprocess.run([str(Path(sys.executable).with_name("nnunet-robust")), *command.split()], check=False)
        if not Path(made).exists():
            sys.exit(f"{made} was not made by: nnunet-robust {command}")
    images, labels = (sorted(Path(RAW, name).absolute().glob("*.png")) for name in ("imagesTs", "labelsTs"))
    rows = [f"{case.stem},{image},{case},size,1" for image, case in zip(images, labels, strict=True)]
    header = "case,image,label,series,level"
    existing = sorted(Path(RAW).glob("series.csv"))
    Path("series.csv").write_text(existing[0].read_text() if existing else "\n".join([header, *rows]) + "\n")


def copy_workspace(workspace: Path, target: Path) -> None:
    """Copy small files, link large ones: they are replaced, never written to."""

    def copied(source: str, destination: str) -> None:
        (shutil.copy2 if Path(source).stat().st_size < 1 << 20 else os.link)(source, destination)

    shutil.copytree(workspace, target, copy_function=copied, symlinks=True,
                    ignore=shutil.ignore_patterns(".snakemake", "*.log", "nnUNetPlans_2d", "Dataset502*"))  # fmt: skip


def state(folder: Path, without: tuple[str, ...]) -> dict[str, str]:
    """Every file's digest; large ones by size and time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(name == one or name.startswith((f"{one}/", f".{one}")) for one in without):
            continue
        if path.is_symlink() or not path.is_file():
            found[name] = "link" if path.is_symlink() else "folder" if path.is_dir() else "other"
        elif path.stat().st_size < 1 << 20:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = f"{path.stat().st_size} {path.stat().st_mtime_ns}"
    return found


def run(attempt: Attempt, workspace: Path, place: Path) -> Outcome:
    """One attempt, in a copy of the workspace and a process of its own."""
    shutil.rmtree(place, ignore_errors=True)
    copy_workspace(workspace, place / "work")
    os.chdir(place / "work")
    attempt.change()
    before = state(place / "work", attempt.outputs)
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(attempt, place)
    code: int | None = None
    while code is None:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        elif time.monotonic() - began > STOPPED:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            code = -9
        else:
            time.sleep(0.01)
    seconds = time.monotonic() - began
    printed, errors = ((place / name).read_text(errors="replace") for name in ("stdout", "stderr"))
    after = state(place / "work", attempt.outputs)
    os.chdir(workspace)
    lost = [name for name in before if after.get(name) != before[name] and not name.endswith(".lock")]
    left = [name for name in after if name not in before and not name.endswith(".lock")]
    if code in (1, 2) and not attempt.fresh:  # a full standard output does not undo the work
        left += [name for name in attempt.outputs if (place / "work" / name).exists() and name not in ("stream",)]
    return Outcome(attempt, code, seconds, printed, errors, lost, left)


def child(attempt: Attempt, place: Path) -> None:
    """Never returns."""
    from nnunet_robust.cli.main import main

    code = 70
    try:
        os.setsid()
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(place / name, os.O_CREAT | os.O_WRONLY), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(place / "work" / "demo" / name)
        attempt.around()
        os.chdir(Path.cwd())  # through what was mounted over it
        if attempt.fresh:
            os.execv(sys.executable, [sys.executable, "-m", "nnunet_robust.cli.main", *attempt.arguments])
        code = main(attempt.arguments)
    except BaseException:
        traceback.print_exc()
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        pass
    os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--match", default="", help="only attempts whose fault has this text")
    parser.add_argument("--workspace", type=Path, default=Path("faults_workspace"))
    parser.add_argument("--show", action="store_true", help="what each attempt printed on standard error")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", nnUNet_def_n_proc="1", nnUNet_n_proc_DA="1", nnUNet_compile="f")
    os.environ.setdefault("MPLBACKEND", "Agg")
    workspace = options.workspace.absolute()
    make_workspace(workspace)
    preload()
    mountable = os.name == "posix" and os.geteuid() == 0 and sys.platform == "linux"
    counts: dict[str, list[int]] = {}
    for kind in options.only:
        for attempt in list(KINDS[kind]()):
            if options.match not in attempt.fault or (attempt.mounts and not mountable):
                continue
            place = workspace.parent / f".{workspace.name}_attempt"
            outcome = run(attempt, workspace, place)
            if outcome.is_slow():  # once more: the machine may have had other work
                outcome = min(outcome, run(attempt, workspace, place), key=lambda one: one.seconds)
            faults = outcome.faults()
            count = counts.setdefault(kind, [0, 0])
            count[0] += 1
            count[1] += bool(faults)
            if faults or options.show:
                last = outcome.errors.strip().splitlines()[-1:] or [""]
                print(f"{kind} | {attempt.fault} | {', '.join(faults)} | exit {outcome.code} | "
                      f"{outcome.seconds:.1f} s | {last[0][:300]}", flush=True)  # fmt: skip
    for kind, (attempts, bad) in counts.items():
        print(f"{kind}: {attempts} attempts, {bad} with a fault")
    total, bad = (sum(column) for column in zip(*counts.values(), strict=True))
    print(f"together: {total} attempts, {bad} with a fault")
    sys.exit(bool(bad))


def preload() -> None:
    """Import what the commands import, so that no attempt's time has it."""
    import torch
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    import nnunet_robust.deployment.drift.checking
    import nnunet_robust.deployment.qa.qa
    import nnunet_robust.eval.conformal.calibrating
    import nnunet_robust.eval.report.page
    import nnunet_robust.eval.sweep.sweep
    import nnunet_robust.study.run  # noqa: F401

    torch.set_num_threads(1)
    recursive_find_trainer_class_by_name("nnUNetTrainer")
    np.random.default_rng(0)


if __name__ == "__main__":
    main()
