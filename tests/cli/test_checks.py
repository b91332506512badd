"""Options that can have no effect are refused in one line, before anything is read: each row of the table."""

from __future__ import annotations

import shlex

import pytest

from nnunet_robust.cli.checks import IDLE
from nnunet_robust.cli.main import main

REFUSED = [
    ("apply -i I -o O --calibration C -m M -d 4", "-d 4: the model folder (-m) says it already"),
    ("qa -i I -o O -m M -c 3d_fullres", "-c 3d_fullres: the model folder"),
    ("denoise -i I -o O -m M -p P --always", "-p P: the model folder"),
    ("monitor fit -i I -o O.json -m M -c 2d", "-c 2d: the model folder"),
    ("sweep -o O -m M -c 2d --perturb contrast", "-c 2d: it is of trainers (-tr)"),
    ("calibrate -o O.json -m M -p P", "-p P: it is of trainers"),
    ("trainers -c 2d", "-c 2d: it is of a dataset's plans"),
    ("calibrate -o O.json -m M --members mirroring --disable-tta", "--members mirroring: --disable-tta leaves no"),
    ("monitor fit -i I -o O.json -m M --members folds mirroring --disable-tta", "--members folds mirroring: --disable"),
    ("report A B --compare --margin 0.01", "--margin 0.01: it is of the recipe"),
    ("qa -i I -o O -m M --kind margin", "--kind margin: without a calibration"),
    ("convert glas G --id 5 --boundary-px 3", "--boundary-px 3.0: it is of the third class"),
    ("convert busi B --id 5 --test-share 0 --seed 1", "--seed 1: it draws test cases"),
    ("convert msd M --id 5 --seed 1", "--seed 1: it draws test cases"),
    ("convert acdc A --id 5 --seed 1", "--seed 1: it draws test cases"),
    ("convert glas G --id 5 --seed 1", "--seed 1: it draws test cases"),
    ("convert msd M --id 5 --min-foreground 0.1", "--min-foreground 0.1: it chooses slices"),
    ("synthesize volumes --id 5 --alpha 0.1", "--alpha 0.1: it is of textures"),
    ("synthesize volumes --id 5 --direction background", "--direction background: it is of textures"),
    ("study run S.yaml --partition gpu", "--partition gpu: it is of a cluster's jobs"),
    ("sweep -o O -tr A A -d 4 --perturb contrast", "-tr A: it is named twice: name it once"),
    ("sweep -o O -m X ./X --perturb contrast", "-m X: it is named twice"),
    ("sweep -o O -m X -f 0 0 --perturb contrast", "-f 0: it is named twice"),
    ("sweep -o O -m X -i I -l A A/ --perturb contrast", "-l A: it is named twice"),
    ("sweep -o O -m X --ensemble A B A --perturb contrast", "--ensemble A: it is named twice"),
    ("sweep -o O -m X --tile-size 64 64", "--tile-size 64: it is named twice"),
    ("monitor fit -i I -o O.json -m M -f 1 1", "-f 1: it is named twice"),
    ("sweep -o O -m X --perturb contrast=0.5 --levels 0.5", "--levels 0.5: contrast=0.5 have levels of their own"),
    ("calibrate -o O.json -m M --alpha nan", "--alpha nan: give a number from 1e-06 to 1"),
    ("calibrate -o O.json -m M --alpha 0", "--alpha 0: give"),
    ("calibrate -o O.json -m M --delta -0.1", "--delta -0.1: give"),
    ("calibrate -o O.json -m M --delta 1e-09", "--delta 1e-09: give"),
    ("calibrate -o O.json -m M --alpha 1e-09", "--alpha 1e-09: give"),
    ("monitor fit -i I -o O.json -m M --rate 1e-09", "--rate 1e-09: give"),
    ("calibrate -o O.json -m M --interval-alpha 1", "--interval-alpha 1: give"),
    ("monitor fit -i I -o O.json -m M --rate nan", "--rate nan: give a number from 1e-06 to 1"),
    ("recommend -i I --from O --margin nan", "--margin nan"),
    ("report A --margin -0.1", "--margin -0.1"),
    ("qa -i I -o O -m M --calibration C --dice-limits 0.7 nan", "--dice-limits nan: give a number from 0 to 1"),
]


@pytest.mark.parametrize(("line", "says"), REFUSED)
def test_it_is_refused_at_once(line: str, says: str, capsys: pytest.CaptureFixture) -> None:
    assert main(shlex.split(line)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and says in error


def test_every_row_of_the_table_is_among_them() -> None:
    for row in IDLE:
        for command in row.commands:
            assert any(
                command in line.split() and row.advice.startswith(says.partition(": ")[2]) for line, says in REFUSED
            ), (command, row.advice)


@pytest.mark.parametrize(
    "line",
    [
        "synthesize volumes --id 5 --size 32 32 32 --radius 4 4",
        "sweep -o O -m X --perturb contrast --levels 0.5 0.5",
        "sweep -o O -m X --attack-source B -c 3d_fullres --perturb pgd_linf",
        "calibrate -o O.json -m M --disable-tta",
        "calibrate -o O.json -m M -d 4",
        "recommend -i I --from O -device cpu",
        "study run S.yaml --executor slurm --partition gpu",
    ],
)
def test_what_has_an_effect_is_read(line: str) -> None:
    from tests.cli.test_options import parsed

    parsed(f"nnunet-robust {line}")
