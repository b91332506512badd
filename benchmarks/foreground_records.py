"""What recording the foreground ratios costs per training iteration, beside the training step itself.

    python benchmarks/foreground_records.py [ITERATIONS]

On the texture plans at a small size (2d, 64 x 64), made in a temporary folder, on the CPU: the step is then as cheap
as a training step gets, and its batch is nnU-Net's own. And of the record alone, for a batch of two patches of 128**3
in each kind of target, which is what a 3d training has in a step.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch


def median_ms(action: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def texture_trainer(root: Path):
    """The standard trainer on small textures, ready for its first step."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / name).mkdir()
        os.environ[name] = str(root / name)
    from nnunet_robust.dataset_conversion.textures import TextureParameters, synthesize_textures

    parameters = TextureParameters(cases=8, test_cases=1, size=64)
    dataset = synthesize_textures(root / "nnUNet_raw", 901, parameters, "Textures").name
    command = Path(sys.executable).with_name("nnUNetv2_plan_and_preprocess")
    subprocess.run([command, "-d", "901", "-c", "2d", "-np", "1"], check=True, stdout=subprocess.DEVNULL)
    folder = root / "nnUNet_preprocessed" / dataset
    plans, dataset_json = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))

    from nnunet_robust.trainers import trainer_class

    os.environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}
    trainer = trainer_class("nnUNetTrainer_bs4")(
        {**plans, "continue_training": False}, "2d", 0, dataset_json, torch.device("cpu")
    )
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer


def main() -> None:
    from nnunet_robust.trainers.records import foreground_ratios

    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as root:
        trainer = texture_trainer(Path(root))
        batch = next(trainer.dataloader_train)
        trainer.train_step(batch)  # the first allocates
        step = median_ms(lambda: trainer.train_step(batch), runs)
        record = median_ms(lambda: foreground_ratios(batch["target"], None, False), runs)
    print(f"textures, 2d, batch {tuple(batch['data'].shape)}, CPU")
    print(f"  training step {step:9.3f} ms\n  its record    {record:9.3f} ms   {100 * record / step:.3f} % of the step")

    labels = torch.randint(0, 3, (2, 1, 128, 128, 128), dtype=torch.int16)
    kinds = {
        "labels": (labels, None),
        "ignore label": (labels, 2),
        "3 regions": (labels.expand(-1, 3, -1, -1, -1) > 0, None),
    }
    print("record alone, batch of 2 patches of 128**3")
    for name, (target, ignore) in kinds.items():
        cost = median_ms(lambda t=target, i=ignore, r=target.dtype is torch.bool: foreground_ratios(t, i, r), runs)
        print(f"  {name:<13} {cost:9.3f} ms")


if __name__ == "__main__":
    main()
