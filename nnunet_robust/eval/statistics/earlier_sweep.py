"""An earlier sweep that something is learned from: of the same models, predicted alike, over other cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from nnunet_robust.common.digest import digest_of_images
from nnunet_robust.common.errors import UserError
from nnunet_robust.eval.results.manifest import Identity, Manifest, read_manifest
from nnunet_robust.eval.results.tables import ARM, arm_key
from nnunet_robust.eval.statistics import load_results


@dataclass(frozen=True)
class EarlierSweep:
    """The output folder of a finished sweep.

    Attributes:
        flag: the option that names it, for messages.
        folder: where it is.
        manifest: what it says of itself.
    """

    flag: str
    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, flag: str, folder: Path) -> EarlierSweep:
        """Look at a folder.

        Raises:
            UserError: it is not that of a finished sweep.
        """
        manifest_file = folder / "manifest.json"
        if not manifest_file.is_file() or not (folder / "results.csv").is_file():
            raise UserError(f"{flag} {folder}: not the folder of a finished sweep")
        manifest = read_manifest(manifest_file, f"give {flag} the folder of a finished sweep")
        try:
            manifest.require("models", "identity")
        except KeyError as error:
            raise UserError(f"{flag} {folder}: {manifest_file.name} is not a sweep's ({error!r})") from error
        return cls(flag, folder, manifest)

    def check_alike(self, identity: Identity) -> None:
        """Make sure that it predicted as this sweep does.

        Raises:
            UserError: with another mirroring, precision or checkpoint.
        """
        for name in ("mirroring", "precision", "checkpoint"):
            there, here = getattr(self.manifest.identity, name), getattr(identity, name)
            if there != here:
                raise UserError(
                    f"{self.flag} {self.folder}: its {name} was {there!r}, here it is {here!r}: predict the "
                    f"calibration cases as these"
                )
        there, here = self.manifest.identity.background_then, identity.background_then
        if there != here:
            raise UserError(
                f"{self.flag} {self.folder}: its background was {there!r}, here it is {here!r}: sweep the calibration "
                f"cases with --background as these"
            )

    def check_has(self, key: str, checkpoints: Mapping[str, str], remedy: str) -> None:
        """Make sure that it has a model, with these checkpoints.

        Raises:
            UserError: it has not; says `remedy` where it has none of that name.
        """
        if key not in self.manifest.models:
            raise UserError(f"{self.flag} {self.folder}: it has no {key}; {remedy}")
        if self.manifest.models[key].checkpoints != checkpoints:
            raise UserError(f"{self.flag} {self.folder}: {key} has other checkpoints there: sweep it again")

    def key_of(self, trainer: str, checkpoints: Mapping[str, str], tile_size: str) -> str:
        """The key of a model there, whatever dataset it was swept over.

        Raises:
            UserError: it has none with these checkpoints and tiles.
        """
        for key, entry in self.manifest.models.items():
            plain = entry.members is None and entry.denoise is None
            if plain and entry.checkpoints == checkpoints and entry.tile_size == tile_size:
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
        for name, digest in self.manifest.identity.cases.items():
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
