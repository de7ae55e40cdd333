"""A list on local disk of digests that verified, so that an interrupted verification need not begin again."""

from __future__ import annotations

from pathlib import Path

from datalake.errors import LakePathError


class Ledger:
    """SHA-256 digests, one a line, appended as they verify. Raises LakePathError if the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="ascii")
        except OSError as error:
            raise LakePathError(f"ledger {path}: {error.strerror}: give a file that you may write") from error

    def known(self) -> frozenset[str]:
        """The digests noted so far; a line cut short by a kill does not count."""
        lines = self.path.read_text(encoding="ascii", errors="replace").splitlines()
        return frozenset(line for line in lines if len(line) == 64)

    def add(self, digest: str) -> None:
        """Note that an object with this digest verified."""
        self._file.write(f"{digest}\n")
        self._file.flush()

    def clear(self) -> None:
        """Forget everything: what verified is old news once a verification has come to its end."""
        self._file.truncate(0)
