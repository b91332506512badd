"""Files for papers: every figure in every format, tables that LaTeX can read, and the command that makes them."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from nnunet_robust.cli.main import main
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.report import analyse
from nnunet_robust.eval.report.export import write_files
from nnunet_robust.eval.report.sections import report_figures, report_tables
from nnunet_robust.eval.results.display_names import DisplayNames
from nnunet_robust.pages.tables import Column, latex, report_table
from tests.eval.sweep_output import write_sweep_output

MODELS = ("nnUNetTrainer_seed1", "nnUNetTrainerNoSkip_seed1", "nnUNetTrainerAttentionGated_seed1")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    levels = {"speckle_noise": [0.1, 0.3]}
    return write_sweep_output(tmp_path_factory.mktemp("sweep"), MODELS, 7, levels=levels, pictures=False)


def test_every_figure_and_table_is_written(sweep: Path, tmp_path: Path) -> None:
    analysis = analyse([sweep])
    written = write_files(analysis, tmp_path / "figures", ["pdf", "csv", "tex"])
    names = {path.name for path in written}
    assert names == {path.name for path in (tmp_path / "figures").iterdir()}
    for figure in report_figures(analysis):
        assert {f"{figure.name}.pdf", f"{figure.name}.csv"} <= names
        saved = pd.read_csv(tmp_path / "figures" / f"{figure.name}.csv")
        assert len(saved) == len(figure.data)
        assert (tmp_path / "figures" / f"{figure.name}.pdf").read_bytes().startswith(b"%PDF")
    for table in report_tables(analysis):
        assert {f"table_{table.name}.csv", f"table_{table.name}.tex"} <= names
    assert "table_recipe.tex" in names
    again = write_files(analysis, tmp_path / "again", ["pdf", "csv", "tex"])
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


def test_png_has_300_dpi_and_a_legend(sweep: Path, tmp_path: Path) -> None:
    path = next(p for p in write_files(analyse([sweep]), tmp_path, ["png"]) if p.name.startswith("dice-"))
    with Image.open(path) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.height > 3.1 * 300  # the legend lies below the panel


def test_latex_is_balanced_and_escaped(sweep: Path) -> None:
    for table in report_tables(analyse([sweep])):
        text = latex(table)
        assert text.isascii(), sorted({letter for letter in text if not letter.isascii()})
        assert text.count("{") == text.count("}") and text.count("$") % 2 == 0
        assert len(re.findall(r"(?<!\\)%", text)) == 1  # the comment in the first line
        assert not re.search(r"(?<!\\)[_#]", re.sub(r"\\label\{.*?\}", "", text))
        assert "\\toprule" in text and "\\bottomrule" in text
        body = text[text.index("\\endlastfoot") :].splitlines()
        rows = [line for line in body if line.endswith("\\\\")]
        assert len(rows) == len(table.data)
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(table.columns) - 1}


def test_latex_keeps_the_numbers_and_the_odd_names() -> None:
    data = pd.DataFrame({"dataset": ["a", "b"], "line": ["50%_&_more", "x~y^z"], "shift": [-0.1234, float("nan")]})
    columns = (Column("dataset", "dataset"), Column("line", "architecture"), Column("shift", "shift", "score"))
    text = latex(report_table("t", "Title", "A note of 95 %.", columns, data, DisplayNames()))
    assert r"50\%\_\&\_more & $-$0.123 \\" in text
    assert r"& -- \\" in text and r"A note of 95 \%." in text


def test_an_unknown_format_is_refused(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--format svg is none of html, json, pdf, png, csv, tex, xlsx, gif, mp4"):
        write_files(analyse([sweep]), tmp_path / "figures", ["csv", "svg"])
    assert not (tmp_path / "figures").exists()


def test_the_command_takes_several_formats_and_folders(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_sweep_output(
        tmp_path / "o", MODELS, 3, levels={"gaussian_blur": [1.0]}, dataset="Dataset9_O", pictures=False
    )
    both = [str(sweep), str(other)]
    assert main(["report", *both]) == 2
    assert "say with -o" in capsys.readouterr().err
    assert main(["report", *both, "-o", str(tmp_path / "r"), "--format", "csv", "tex"]) == 0
    printed = capsys.readouterr().out
    written = sorted(path.name for path in (tmp_path / "r" / "figures").iterdir())
    assert written and all(name in printed for name in written)
    assert {Path(name).suffix for name in written} == {".csv", ".tex"}
    assert not (tmp_path / "r" / "report.html").exists()
    assert main(["report", str(other)]) == 0
    assert str(other / "report.html") in capsys.readouterr().out
    assert (other / "report.html").is_file()
    assert main(["report", str(other), "--format", "jpg"]) == 2
    assert "--format jpg is none of" in capsys.readouterr().err
