"""Fills the pages of docs/reference/ from the code when Sphinx reads them: `<!-- generated: NAME -->` is replaced."""

import argparse
import dataclasses
import importlib
import re
import typing
from collections.abc import Iterable, Iterator

from sam2unet.cli import describe_default
from sam2unet.commands import COMMANDS
from sam2unet.recipe import FIELDS, Recipe, Study
from sam2unet.scoring.classes.columns import CLASS_PROTOCOLS, define_class_columns, list_columns
from sam2unet.scoring.columns import METRICS, PROTOCOLS, Metric
from sam2unet.typed_yaml import get_value_type
from scripts import onnx_prompts

GROUPS = {  # groups of recipe fields, in the order of the page
    "recipe": "Every model",
    "mask values": "Values of masks",
    "classes": "Several classes",
    "volumes": "Volumes",
    "departures": "Changes to the released recipe",
    "speed": "Speed",
    "prompts": "SAM-Med2D",
    "study": "A published result",
}
METRIC_GROUPS = {
    "plain": "For every task",
    "effort": "For thin structures",
    "mirror": "For mirrors",
    "medical": "For medical images",
    "calibration": "For maps as probabilities",
}


def setup(app) -> dict[str, bool]:
    app.connect("source-read", fill_page)
    # the code can change while the pages do not
    app.connect("env-get-outdated", lambda app, env, *_: [name for name in env.found_docs if "reference/" in name])
    return {"parallel_read_safe": True}


def fill_page(app, name: str, source: list[str]) -> None:
    """Replaces the comment of a page by its generated content. `source` holds the text of the page."""
    source[0] = re.sub(r"<!-- generated: (\w+) -->", lambda match: "\n".join(WRITERS[match[1]]()), source[0])


def escape(text: str) -> str:
    """Returns Markdown that shows `text` as it is, with flags and words in backticks as code."""

    def mark(match: re.Match) -> str:
        code, flag, character = match.groups()
        return code or (f"`{flag}`" if flag else f"\\{character}")

    return re.sub(r"(`[^`]+`)|(--[a-z]\w*)|([\\`*_{}\[\]<>#|$~&^])", mark, text)


def write_directive(name: str, argument: str, *lines: str) -> str:
    return "\n".join([f"````{{{name}}} {argument}", *lines, "````", ""])


def read_commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yields each command with its parser."""
    for name, command in COMMANDS.items():
        yield f"sam2unet {name}", importlib.import_module(f"sam2unet.commands.{command.module}").parser()
    yield "scripts/onnx_prompts.py", onnx_prompts.parser()


def write_commands() -> Iterator[str]:
    scripts = {f"sam2unet {name}": command.script for name, command in COMMANDS.items()}
    for name, parser in read_commands():
        yield from write_parser(name, parser, script=scripts.get(name, ""))


def write_parser(name: str, parser: argparse.ArgumentParser, level: int = 2, script: str = "") -> Iterator[str]:
    """Yields the description and the flags of a command, and then of its subcommands."""
    yield f"{'#' * level} {name}\n\n{escape(parser.description or '')}\n"
    if script:
        yield f"In a checkout, `python {script}` is the same command.\n"
    yield write_directive("program", name)
    subcommands = []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        subcommands += [action for action in actions if hasattr(action, "add_parser")]
        flags = [action for action in actions if action.dest != "help" and action not in subcommands]
        if flags and group.title not in ("options", "positional arguments"):
            yield write_directive("rubric", group.title[0].upper() + group.title[1:])
            yield f"{escape(group.description or '')}\n"
        for action in flags:
            value = format_value(action)
            spellings = [f"{flag} {value}".strip() for flag in action.option_strings] or [value]
            words = (action.help or "") % (vars(action) | {"prog": name})
            yield write_directive("option", ", ".join(spellings), escape(words))
    for action in subcommands:
        for entry in action._choices_actions:
            command = action.choices[entry.dest]
            command.description = command.description or entry.help
            yield from write_parser(f"{name} {entry.dest}", command, level + 1)


def format_value(action: argparse.Action) -> str:
    """Returns the name of a flag's value, for example `N [N ...]`."""
    if action.nargs == 0:
        return ""
    choices = "|".join(map(str, action.choices or ()))
    word = action.metavar or choices or (action.dest.upper() if action.option_strings else action.dest)
    return {"+": f"{word} [{word} ...]", "*": f"[{word} ...]", "?": f"[{word}]"}.get(action.nargs, word)


def write_recipe() -> Iterator[str]:
    hints = typing.get_type_hints(Recipe) | typing.get_type_hints(Study)
    for group, title in GROUPS.items():
        yield f"## {title}\n"
        for field in (*dataclasses.fields(Recipe), *dataclasses.fields(Study)):
            if field.metadata["group"] != group:
                continue
            name = field.name
            kind = get_value_type(hints[name]).__name__
            kind = f"list of {kind}" if typing.get_origin(hints[name]) is tuple else kind
            lines = [f":type: {kind}"]
            default = describe_default(name).removeprefix("; default: ") if name in FIELDS else field.default
            if default not in ("", None, ()):
                lines.append(f":default: {default}")
            yield write_directive("confval", name, *lines, "", escape(field.metadata["help"]))


def write_metrics() -> Iterator[str]:
    for group in dict.fromkeys(metric.group for metric in METRICS.values()):
        yield f"### {METRIC_GROUPS.get(group, group)}\n"
        yield from write_table({key: metric for key, metric in METRICS.items() if metric.group == group}, PROTOCOLS)


def write_class_metrics() -> Iterator[str]:
    protocols = {name: list_columns(name, ["CLASS"]) for name in CLASS_PROTOCOLS}
    return write_table(define_class_columns(["CLASS"], surfaces=True), protocols)


def write_table(metrics: dict[str, Metric], protocols: dict[str, Iterable[str]]) -> Iterator[str]:
    yield "| column | key | meaning | `--protocol` |\n| --- | --- | --- | --- |"
    for key, metric in metrics.items():
        names = ", ".join(name for name, keys in protocols.items() if key in keys)
        words = metric.legend + ("" if metric.higher else "; lower is better")
        yield f"| {escape(metric.title)} | `{key}` | {escape(words)} | {names} |"
    yield ""


WRITERS = {
    "commands": write_commands,
    "recipe": write_recipe,
    "metrics": write_metrics,
    "class_metrics": write_class_metrics,
}
