"""Runs a command of the benchmarks in the process of the test."""

import tempfile
from pathlib import Path

from benchmarks.__main__ import parser
from benchmarks.harness import Results, make_tables, run_command


class Here:
    """Stands in for `harness.Alone`: runs the functions in this process."""

    def run(self, function, *arguments):
        return function(*arguments)


def run_here(words) -> dict[str, dict[str, dict[str, str]]]:
    """Returns the cells of all tables: name of the table -> row -> title."""
    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(folder), "test")
        run_command(parser().parse_args([*map(str, words)]), Here(), results)
        return make_tables(results.read())
