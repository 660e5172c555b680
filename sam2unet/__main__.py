"""The console command: `sam2unet COMMAND [flags]`, or `python -m sam2unet COMMAND [flags]`."""

import difflib
import importlib
import os
import sys
from typing import NoReturn

if not __package__:  # run as a file; the folder of the package must not be on the path, because of its module names
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from sam2unet.commands import COMMANDS


def run_console() -> NoReturn:
    """Runs the command that the first word names. Exits with its status; see `sam2unet.cli.main`."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print_help()
        sys.exit(0 if words else 2)
    name = "version" if words[0] == "--version" else words[0]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {close[0]}?" if close else "sam2unet --help lists the commands"
        print(f"error: there is no command {name!r}; {hint}", file=sys.stderr)  # noqa: T201, a part of --help
        sys.exit(2)
    from sam2unet.cli import main

    module = importlib.import_module(f"sam2unet.commands.{COMMANDS[name].module}")
    sys.argv = [f"sam2unet {name}", *words[1:]]
    main(module.parser, module.run)


def print_help() -> None:
    lines = ["usage: sam2unet COMMAND [flags]", "", "Segment Anything for your own masks.", "", "commands:"]
    lines += [f"  {name:<20}{command.words}" for name, command in COMMANDS.items()]
    lines += ["", "sam2unet COMMAND --help explains the flags of a command."]
    print("\n".join(lines))  # noqa: T201, print_line would import more


if __name__ == "__main__":
    run_console()
