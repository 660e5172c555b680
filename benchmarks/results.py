"""The results of `benchmarks gpu`: one line of JSON each, as tables in Markdown, and in the tables of the docs."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.harness import Cells, Measurement, format_table
from sam2unet.atomic import read_text, write_atomic
from sam2unet.errors import UserError

MARKER = re.compile("<!-- gpu: (.+) -->")  # before a table of the docs: the name of the table that it takes
lock = threading.Lock()


def add_result(folder: Path, step: str, table: str, row: str, numbers: Measurement | str, cells: Cells) -> None:
    """Appends a result to `results.jsonl` and writes `results.md` again. Processes may do this at the same time.

    Args:
        numbers: what was measured; `ok` is False if a check failed. A text says why there is no result.
    """
    if isinstance(numbers, str):
        numbers, cells = {"ok": False if numbers.startswith("failed") else None}, {"result": numbers}
    result = {
        "step": step,
        "table": table,
        "row": row,
        "ok": True,
        "time": round(time.time()),
        "cells": cells,
    } | numbers
    path = folder / "results.jsonl"
    with lock:
        torn = path.exists() and not path.read_bytes().endswith(b"\n")  # the writer of the last line was killed
        with open(path, "ab", buffering=0) as file:  # one write for a whole line
            file.write(b"\n" * torn + json.dumps(result).encode() + b"\n")
        with write_atomic(folder / "results.md") as file:
            file.write(format_results(read_results(folder)).encode())


def read_results(folder: Path) -> list[dict]:
    """Returns all results. A line that was not written completely is left out."""
    results = []
    for line in read_text(folder / "results.jsonl").splitlines():
        with suppress(ValueError):
            results.append(json.loads(line))
    return results


def format_results(results: list[dict]) -> str:
    """Returns the tables in Markdown. Of several results for a row, the last one counts."""
    tables: dict[str, dict[str, dict]] = {}
    for result in results:
        tables.setdefault(result["table"], {})[result["row"]] = result
    parts = []
    for table, rows in tables.items():
        titles = list(dict.fromkeys(title for result in rows.values() for title in result["cells"]))
        ok = {True: "yes", False: "NO", None: ""}
        lines = [
            [row, ok[result["ok"]], *(result["cells"].get(title, "") for title in titles)]
            for row, result in rows.items()
        ]
        parts.append(f"## {table}\n\n{format_table(['row', 'ok', *titles], lines)}\n")
    return "\n".join(parts)


def write_docs(results: list[dict], page: Path) -> int:
    """Writes results of a GPU into the tables of `page` that have a marker. Returns the number of rows.

    A cell changes if a result has its row and its column. The first title of the table names the device.
    """
    machine, found = "", {}
    for result in results:
        if result["step"] == "machine":
            machine = result["machine"] if result["type"] == "cuda" and not result["quick"] else ""
        elif machine and result["ok"]:
            found[result["table"], result["row"]] = machine, result["cells"]
    if not found:
        raise UserError("there are no results of a GPU; run this command on a GPU first, without --quick")
    table, titles, count, lines = None, [], 0, []
    for line in read_text(page).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if marker := MARKER.fullmatch(line):
            table, titles = marker[1], []
        elif line and not line.startswith("|"):
            table = None
        elif table and line and not titles:
            titles, head = cells, len(lines)
        elif (table, cells[0]) in found:
            device, new = found[table, cells[0]]
            lines[head] = f"| {' | '.join([device, *titles[1:]])} |"
            line = f"| {' | '.join(new.get(*pair) for pair in zip(titles, cells, strict=True))} |"
            count += 1
        lines.append(line)
    with write_atomic(page) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
    return count
