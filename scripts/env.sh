# Sourced by the other scripts: makes .venv from requirements.txt and pyproject.toml once, and again when they change.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python

wanted=$(cat requirements.txt pyproject.toml | sha256sum)
command -v python3 > /dev/null || { echo "error: there is no python3; install Python 3.10 or newer" >&2; exit 2; }
if [ "$(cat .venv/installed-from 2>/dev/null)" != "$wanted" ]; then
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    { echo "error: $(python3 --version 2>&1) is too old; install Python 3.10 or newer" >&2; exit 2; }
  [ ! -e .venv ] || [ -e .venv/installed-from ] ||
    { echo "error: .venv was not made by this project; move it away" >&2; exit 2; }
  echo "making .venv (a few minutes, once)"
  mkdir -p .venv && touch .venv/installed-from  # a second try goes on where this one was cut off
  python3 -m venv .venv && $python -m pip install --quiet --editable '.[dev]' ||
    { echo "error: the packages of requirements.txt could not be installed; see the lines above" >&2; exit 2; }
  echo "$wanted" > .venv/installed-from
fi
