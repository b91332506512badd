"""What a conversion leaves out of a source, and why: a file that cannot be read does not stop the others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from nnunet_robust.common.digest import source_digest
from nnunet_robust.common.errors import UserError

Note: TypeAlias = Callable[[str], None]
"""Takes a line about what is odd in a source, or left out of it."""


class LeftOut:
    """The cases and files of a source that cannot be read or paired, each with its reason.

    Attributes:
        reasons: the name of a case, or of a file within the source, and why it is left out. No reason holds the
            source's own path, so that the same source gives the same record wherever it lies.
    """

    def __init__(self, source: Path, note: Note, strict: bool = False) -> None:
        """Begin with nothing left out.

        Args:
            source: the source's folder.
            note: takes a line about each case or file that is left out.
            strict: raise the first reason instead of going on.
        """
        self.reasons: dict[str, str] = {}
        self._source = source
        self._note = note
        self._strict = strict

    def add(self, name: str, reason: str) -> None:
        """Leave out a case or a file.

        Raises:
            UserError: the conversion is strict.
        """
        if self._strict:
            raise UserError(reason)
        self.reasons.setdefault(name, reason.replace(f"{self._source}{os.sep}", ""))
        self._note(f"left out: {name}: {self.reasons[name]}")

    @contextlib.contextmanager
    def if_faulty(self, name: str) -> Iterator[None]:
        """Leave out the case if the block raises a `UserError`."""
        try:
            yield
        except UserError as error:
            self.add(name, str(error))

    def recall(self, reasons: Mapping[str, str]) -> None:
        """Take over what was left out when the dataset was written.

        Raises:
            UserError: the conversion is strict.
        """
        for name, reason in reasons.items():
            if name not in self.reasons:
                self.add(name, reason)

    def digest(self, folder: Path, files: Iterable[Path]) -> str:
        """Return the digest of the files that can be opened; the others are left out when they are read."""
        return source_digest(folder, [path for path in files if path.is_file() and os.access(path, os.R_OK)])
