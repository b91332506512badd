"""One reader for JSON, one for CSV, and one way to write a file whole: nobody else opens such a file."""

from __future__ import annotations

import re
from pathlib import Path

import nnunet_robust

ROOT = Path(nnunet_robust.__file__).parent
READERS = {
    "common/json_files.py": "the reader of JSON",
    "common/csv_files.py": "the reader of CSV",
    "eval/results/reading.py": "pandas parses the text that the reader of CSV has checked",
    "eval/results/parts.py": "rows that a kill has cut off are computed again, and only those",
    "dataset_conversion/glas.py": "the challenge's Grade.csv, of which there are copies in other encodings",
    "dataset_conversion/writer.py": "a record through JSON and back, no file",
    "study/matrix.py": "likewise",
    "study/Snakefile": "run by Snakemake, on what the driver has just written for it",
}
WRITERS = {
    "common/files.py": "the writer",
    "common/outputs.py": "a trial, which is removed at once",
    "common/progress.py": "lines added to a log",
    "dataset_conversion/series.py": "into the hidden folder of a dataset, which is flushed and renamed as a whole",
    "dataset_conversion/writer.py": "likewise",
    "dataset_conversion/splits.py": "inside of `atomic_path`",
    "eval/conformal/calibrating.py": "lines added, and flushed",
    "eval/sweep/units.py": "claims, of which a power cut may take any",
    "study/attempts.py": "lines added, and flushed",
    "study/job.py": "what a job prints",
    "study/run.py": "what Snakemake prints",
}


def test_files_are_read_by_the_two_readers() -> None:
    found = set()
    for path in [*ROOT.rglob("*.py"), ROOT / "study" / "Snakefile"]:
        text = path.read_text(encoding="utf-8")
        if re.search(r"\bjson\.loads?\(|pd\.read_csv\(|csv\.(reader|DictReader)\(|\bload_json\(", text):
            found.add(str(path.relative_to(ROOT)))
    assert found == set(READERS)


def test_files_are_written_whole() -> None:
    """Drawings and tables are made in memory, so that `savefig` and `to_csv` get no path."""
    opened = r"\.write_text\(|\.write_bytes\(|open\([^)]*\"[wax]b?\"|\bjson\.dump\(|\.to_csv\((?!index=False, float)"
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if re.search(opened, path.read_text(encoding="utf-8"))
    }
    assert found == set(WRITERS)
