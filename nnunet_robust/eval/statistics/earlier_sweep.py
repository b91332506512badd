"""An earlier sweep that something is learned from: of the same models, predicted alike, over other cases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_robust.common.digest import digest_of_images
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.results.results import ARM, arm_key
from nnunet_robust.eval.statistics import load_results


@dataclass(frozen=True)
class EarlierSweep:
    """The output folder of a finished sweep.

    Attributes:
        flag: the option that names it, for messages.
        folder: where it is.
        models: key -> entry, of its manifest.
        identity: of its manifest.
    """

    flag: str
    folder: Path
    models: Mapping[str, Mapping[str, Any]]
    identity: Mapping[str, Any]

    @classmethod
    def open(cls, flag: str, folder: Path) -> EarlierSweep:
        """Look at a folder.

        Raises:
            UserError: it is not that of a finished sweep.
        """
        manifest_file = folder / "manifest.json"
        if not manifest_file.is_file() or not (folder / "results.csv").is_file():
            raise UserError(f"{flag} {folder}: not the folder of a finished sweep")
        try:
            manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
            return cls(flag, folder, manifest["models"], manifest["identity"])
        except (json.JSONDecodeError, KeyError) as error:
            raise UserError(f"{flag} {folder}: {manifest_file.name} is not a sweep's ({error!r})") from error

    def check_alike(self, identity: Mapping[str, Any]) -> None:
        """Make sure that it predicted as this sweep does.

        Raises:
            UserError: with another mirroring, precision or checkpoint.
        """
        for name in ("mirroring", "precision", "checkpoint"):
            if self.identity.get(name) != identity[name]:
                raise UserError(
                    f"{self.flag} {self.folder}: its {name} was {self.identity.get(name)!r}, here it is "
                    f"{identity[name]!r}: predict the calibration cases as these"
                )

    def check_has(self, key: str, checkpoints: Mapping[str, str], remedy: str) -> None:
        """Make sure that it has a model, with these checkpoints.

        Raises:
            UserError: it has not; says `remedy` where it has none of that name.
        """
        if key not in self.models:
            raise UserError(f"{self.flag} {self.folder}: it has no {key}; {remedy}")
        if self.models[key]["checkpoints"] != checkpoints:
            raise UserError(f"{self.flag} {self.folder}: {key} has other checkpoints there: sweep it again")

    def key_of(self, trainer: str, checkpoints: Mapping[str, str], tile_size: str) -> str:
        """The key of a model there, whatever dataset it was swept over.

        Raises:
            UserError: it has none with these checkpoints and tiles.
        """
        for key, entry in self.models.items():
            plain = "members" not in entry and "denoise" not in entry
            if plain and entry["checkpoints"] == checkpoints and entry["tile_size"] == tile_size:
                return key
        raise UserError(
            f"{self.flag} {self.folder}: no model there has the checkpoints of {trainer}, fold "
            f"{'+'.join(checkpoints)}: sweep it there, or name the same folds with -f"
        )

    def check_unseen(self, digests: Sequence[Mapping[str, str | None]], channels: int, why: str) -> None:
        """Make sure that none of its images is one of this sweep's.

        Args:
            digests: of this sweep's cases, name -> digest, and those of each test set of a series.
            channels: images of a case.
            why: what would be wrong with that.

        Raises:
            UserError: one is.
        """
        images = {digest_of_images(d, channels) for of_set in digests for d in of_set.values() if d}
        for name, digest in self.identity["cases"].items():
            if digest and digest_of_images(digest, channels) in images:
                raise UserError(
                    f"{self.flag} {self.folder}: case {name!r} is of this sweep too: {why}; take other cases"
                )

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The rows of `results.csv`, with the column `key`: that of the arm."""
        rows = load_results(self.folder / "results.csv")
        arms = rows[list(ARM)].drop_duplicates()
        arms["key"] = [arm_key(**arm) for arm in arms.to_dict("records")]
        return rows.merge(arms, on=list(ARM))
