"""Turn a .pth of all weights into a .safetensors of the trained ones alone, or back; nothing is lost either way."""

import argparse
from pathlib import Path

from sam2unet.cli import Parser, main
from sam2unet.errors import UserError
from sam2unet.families import assemble, read_checkpoint, save_checkpoint


def parser() -> argparse.ArgumentParser:
    p = Parser(description=__doc__)
    p.add_argument(
        "source", type=Path, metavar="SOURCE", help="SAM2-UNet-<epoch>.pth, released or trained here, or ..."
    )
    p.add_argument("target", type=Path, metavar="TARGET", help="... .safetensors; each is known by its name's end")
    p.add_argument(
        "--hiera_path", type=Path, help="SAM 2 checkpoint that SOURCE was trained from; its trunk is checked"
    )
    return p


def run(args: argparse.Namespace) -> None:
    if {args.source.suffix, args.target.suffix} != {".pth", ".safetensors"}:
        raise UserError(f"{args.source.name} to {args.target.name}: one must be called .pth, the other .safetensors")
    if args.target.exists() and any(
        p and p.exists() and p.samefile(args.target) for p in (args.source, args.hiera_path)
    ):
        raise UserError(f"{args.target} is the file to read from; give another name to write to")
    found = read_checkpoint(args.source)
    if args.source.suffix == ".pth" and args.hiera_path is None:
        raise UserError(f"give --hiera_path FILE, the weights that {args.source} was trained from, to leave them out")
    model, base = assemble(found, args.hiera_path)
    save_checkpoint(model, args.target, base)
    print(f"{args.target}: {args.target.stat().st_size:,} bytes; {args.source}: {args.source.stat().st_size:,}")


if __name__ == "__main__":
    main(parser, run)
