"""One reader for JSON, one for CSV: nobody else opens such a file."""

from __future__ import annotations

import re
from pathlib import Path

import nnunet_robust

ROOT = Path(nnunet_robust.__file__).parent
OWN = {
    "common/json_files.py": "the reader of JSON",
    "common/csv_files.py": "the reader of CSV",
    "eval/results/reading.py": "pandas parses the text that the reader of CSV has checked",
    "eval/results/parts.py": "rows that a kill has cut off are computed again, and only those",
    "dataset_conversion/glas.py": "the challenge's Grade.csv, of which there are copies in other encodings",
    "dataset_conversion/writer.py": "a record through JSON and back, no file",
    "study/matrix.py": "likewise",
    "study/Snakefile": "run by Snakemake, on what the driver has just written for it",
}


def test_files_are_read_by_the_two_readers() -> None:
    found = set()
    for path in [*ROOT.rglob("*.py"), ROOT / "study" / "Snakefile"]:
        text = path.read_text(encoding="utf-8")
        if re.search(r"\bjson\.loads?\(|pd\.read_csv\(|csv\.(reader|DictReader)\(|\bload_json\(", text):
            found.add(str(path.relative_to(ROOT)))
    assert found == set(OWN)
