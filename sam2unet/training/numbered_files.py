"""The files of a run that have the number of an epoch in their names."""

from pathlib import Path


class NumberedFiles:
    """Knows which numbered files in a folder the run wrote, and removes old ones.

    A file that was changed or copied after the run wrote it is a file of the user. It is never removed.
    """

    def __init__(self, folder: Path, keep: int | None):
        """`keep` is how many checkpoints, and how many pictures, stay. None keeps all."""
        self.folder, self.keep = folder, keep
        self.times: dict[str, int] = {}  # name in `folder` -> time of the last change in nanoseconds, oldest file first

    def add(self, path: Path) -> None:
        """Adds a complete file. Then removes older files of the same kind: those in the same folder."""
        name = path.relative_to(self.folder).as_posix()
        self.times.pop(name, None)  # a run that resumes writes its last files again
        self.times[name] = path.stat().st_mtime_ns
        if self.keep is not None:
            same_kind = [other for other in self.times if Path(other).parent == Path(name).parent]
            for other in [other for other in same_kind if self.is_unchanged(other)][: -self.keep]:
                (self.folder / other).unlink(missing_ok=True)
                del self.times[other]

    def is_unchanged(self, name: str) -> bool:
        path = self.folder / name
        return path.is_file() and path.stat().st_mtime_ns == self.times[name]
