"""Writes `certificate.html`: the content of the certificate as one page for people. It needs no network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from ..atomic import write_atomic
from ..data.checks.findings import BITS
from ..scoring.columns import METRICS
from ..scoring.report.page import TEMPLATE, escape
from .digests import combine_digests, format_digests
from .figures import Figure, explain_figures
from .leakage import describe_leakage


def write_page(content: Mapping, figures: Sequence[Figure], path: Path) -> None:
    """Writes the page of a certificate with this `content`, completely or not at all."""
    template = Template(Path(__file__).with_name("certificate.html").read_text("utf-8"))
    seeds, configuration = content["seeds"], content["configuration"]
    settings = configuration["study"] | configuration["recipe"]
    rows = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in settings.items()]
    page = template.substitute(
        title=escape(f"{content['method']}, {configuration['file']}"),
        summary=escape(f"{len(seeds)} training{'s' * (len(seeds) > 1)}, written on {content['made']}"),
        style=TEMPLATE.with_suffix(".css").read_text("utf-8"),
        command=escape(content["command"]),
        figures=draw_figures(figures, seeds, content["leakage"]),
        leakage=draw_leakage(content["leakage"]),
        runs="".join(map(draw_run, content["runs"])),
        configuration=draw_table(("name", "value"), rows),
        data="".join(draw_files(name, files) for name, files in content["data"]["sets"].items()),
        weights=draw_weights_table(content["weights"]),
        software=draw_software(content["code"], content["environment"]),
    )
    with write_atomic(path) as file:
        file.write(page.encode())


def draw_figures(figures: Sequence[Figure], seeds: Sequence[int], leakage: Mapping[str, Mapping]) -> str:
    """Returns the HTML of the table of figures, and of the sentences that explain it."""
    titles = ["data set", "metric", "images", *(f"seed {seed}" for seed in seeds), "mean", "std", "95 % interval"]
    rows = [
        [f.dataset, METRICS[f.metric].title, f.images]
        + [f.format(value) for value in f.seeds]
        + [f.format(f.mean), f.format(f.std, 1), f"[{f.format(f.low)}, {f.format(f.high)}]"]
        + [f.format(f.published), describe_place(f), summarize_leakage(leakage[f.dataset])]
        for f in figures
    ]
    table = draw_table([*titles, "published", "published is", "leakage"], rows, text=False)
    return table + "".join(f"<p>{escape(line)}</p>" for line in explain_figures(figures, seeds))


def describe_place(figure: Figure) -> str:
    """Returns words such as `inside the interval`, or `not known`."""
    return f"{figure.place} the interval" if figure.place else "not known"


def summarize_leakage(found: Mapping) -> str:
    return describe_leakage(len(found["equal"]), None if found["near"] is None else len(found["near"]))


def draw_leakage(leakage: Mapping[str, Mapping]) -> str:
    rows = []
    for name, found in leakage.items():
        rows += [(name, test, train, "equal pixels") for test, train in found["equal"]]
        rows += [
            (name, test, train, f"similar: {bits} of {BITS} bits differ") for test, train, bits in found["near"] or []
        ]
    words = "No test image is in the training set." if not rows else "The figures of these data sets may be too good."
    searched = all(found["near"] is not None for found in leakage.values())
    words += "" if searched else " Only equal pixels were searched, because ImageHash was not installed."
    table = draw_table(("data set", "test image", "training image", "what is equal"), rows) if rows else ""
    return f"<p>{escape(words)}</p>{table}"


def draw_run(run: Mapping) -> str:
    """Returns the HTML of the run of one seed: its starts, its checkpoint and its maps."""
    hours = "unknown" if run["hours"] is None else f"{run['hours']:.3g}"
    rows = [(start["started"], *describe_start(start)) for start in run["starts"]]
    maps = {f"maps/{name}/{file}": sha for name, files in run["maps"].items() for file, sha in files.items()}
    checkpoint = {run["checkpoint"]["file"]: run["checkpoint"]["sha256"]}
    head = (
        f"Seed {escape(run['seed'])} <small>{escape(hours)} hours of training, folder {escape(run['folder'])}</small>"
    )
    table = draw_table(("started", "device", "PyTorch", "git commit"), rows)
    return f"<h3>{head}</h3>{table}{draw_files('checkpoint and maps', checkpoint | maps)}"


def describe_start(start: Mapping) -> tuple[str, str, str]:
    """Returns the device of a start of a training, its version of PyTorch, and the state of the code."""
    device, packages = start["device"] or {}, start["versions"] or {}
    name = device.get("gpu") or f"{device.get('cpu')}, {device.get('threads')} threads"
    count = device.get("processes", 1)
    return f"{count} x {name}" if count != 1 else str(name), str(packages.get("torch")), describe_git(start["git"])


def describe_git(git: Mapping | None) -> str:
    return f"{git['commit']}, {'with' if git['dirty'] else 'without'} changes" if git else "no git checkout"


def draw_weights_table(weights: Mapping[str, Mapping]) -> str:
    if not weights:
        return "<p>None. The training started from random weights.</p>"
    rows = [(f"--{flag}", Path(file["path"]).name, file["sha256"]) for flag, file in weights.items()]
    return draw_table(("flag", "file", "digest"), rows)


def draw_software(code: Mapping, environment: Mapping) -> str:
    """Returns the HTML of the state of the code, its files, and the versions of the packages."""
    words = f"git commit: {describe_git(code['git'])}"
    rows = [("system", environment["system"]), *environment["versions"].items()]
    return f"<p>{escape(words)}</p>{draw_files('code', code['files'])}{draw_table(('package', 'version'), rows)}"


def draw_files(title: str, digests: Mapping[str, str]) -> str:
    """Returns the HTML of a closed list of files with their digests."""
    head = f"{title}: {len(digests)} files, digest {combine_digests(digests)}"
    lines = "\n".join(map(escape, format_digests(digests).splitlines()))
    return f'<details class="set"><summary>{escape(head)}</summary><pre class="files">{lines}</pre></details>'


def draw_table(titles: Sequence[str], rows: Sequence[Sequence[object]], text: bool = True) -> str:
    """Returns the HTML of a table. The cells of `text` are aligned left, and long ones have several lines."""
    kind = ' class="text"' if text else ""
    head = "".join(f'<th scope="col"{kind}>{escape(title)}' for title in titles)
    cells = ([escape(str(cell)) for cell in row] for row in rows)
    body = "".join(
        f'<tr><th scope="row"{kind}>{row[0]}' + "".join(f"<td{kind}>{cell}" for cell in row[1:]) for row in cells
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}<tbody>{body}</table></div>'
