"""Jobs: which there are, what they wait for, and what makes one another job."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from nnunet_robust.study.config import Study, load_study
from nnunet_robust.study.matrix import from_json, jobs_of

TEXT = """\
study: matrix
datasets:
  - { id: 7, synthesize: textures, parameters: { cases: 10 } }
  - { id: 8, existing: true, configurations: [2d, 3d_fullres] }
planners: [ExperimentPlanner, nnUNetPlannerResEncM]
trainers: [nnUNetTrainer, nnUNetTrainerNoSkip]
seeds: [1, 2]
folds: [0, 1]
sweeps:
  - { name: series, series: true, datasets: [7] }
  - { name: tiles, tile_sizes: [32], folds: each }
"""


def study_of(folder: Path, text: str = TEXT) -> Study:
    path = folder / "study.yaml"
    path.write_text(text)
    return load_study(path)


def test_every_combination_is_a_job_after_what_it_waits_for(tmp_path: Path) -> None:
    jobs = jobs_of(study_of(tmp_path))
    counts = {stage: sum(job.stage == stage for job in jobs) for stage in ("dataset", "plan", "train", "sweep")}
    arms = 2 * (1 + 2)  # planners x configurations of the datasets
    assert counts == {"dataset": 2, "plan": 2, "train": arms * 2 * 2 * 2, "sweep": 2 + arms * 2}
    seen: set[str] = set()
    for job in jobs:
        assert seen.issuperset(job.inputs)
        assert job.id not in seen
        seen.add(job.id)
    by_id = {job.id: job for job in jobs}
    assert by_id["train/007-2d-nnUNetTrainer_seed1-f0"].inputs == ("plan/007",)
    assert "train/008-3d_fullres-nnUNetResEncUNetMPlans-nnUNetTrainerNoSkip_seed2-f1" in by_id
    each = by_id["sweep/tiles-008-2d-f1"]
    assert each.what["folds"] == ["1"]
    assert len(each.inputs) == 4 and all(job.endswith("-f1") for job in each.inputs)
    assert len(by_id["sweep/series-007-2d"].inputs) == 8
    assert set(by_id["report/report"].inputs) == seen - {"report/report"}


def test_a_job_survives_json_and_its_digest_tells_what_it_does(tmp_path: Path) -> None:
    jobs = {job.id: job for job in jobs_of(study_of(tmp_path))}
    for job in jobs.values():
        copy = from_json(json.loads(json.dumps(asdict(job))))
        assert copy == job and copy.digest == job.digest

    def changed(old: str, new: str) -> set[str]:
        others = jobs_of(study_of(tmp_path, TEXT.replace(old, new)))
        return {job.id for job in others if job.id in jobs and job.digest != jobs[job.id].digest}

    assert changed("cases: 10", "cases: 12") == {"dataset/007"}
    assert changed("seeds: [1, 2]", "seeds: [1, 2, 3]") == {job for job in jobs if job.startswith("sweep/")}
    assert changed("sweeps:", "resources: { train: { hours: 5 } }\nretries: 7\nsweeps:") == set()
