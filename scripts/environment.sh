#!/usr/bin/env bash
# Makes the virtual environment of this checkout:  scripts/environment.sh PYTHON VENV STAMP
# Every version is the one in constraints.txt. What pip says is kept in VENV/install.log and shown when it fails.
set -euo pipefail
python=$1 venv=$2 stamp=$3

if ! command -v "$python" >/dev/null; then
  echo "There is no $python on this machine. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python" >&2
  exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "$python is $("$python" -V 2>&1), and nothing-tune needs Python 3.11 or newer." >&2
  echo "Name another one: make PYTHON=python3.12" >&2
  exit 2
fi

mkdir -p "$venv"
log=$venv/install.log
started=$SECONDS

if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "Making an environment in $venv with $("$python" -V). A few seconds."
  if ! "$python" -m venv --clear "$venv" >"$venv.log" 2>&1; then
    cat "$venv.log" >&2
    echo "Python could not make the environment. On Debian and Ubuntu: apt install python3-venv" >&2
    exit 2
  fi
  mv "$venv.log" "$log"
fi

echo "Installing nothing-tune and everything it needs, PyTorch included. Two to five minutes the first time."
if ! "$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' >>"$log" 2>&1; then
  tail -n 25 "$log" >&2
  echo "The installation failed; the whole log is $log. Without a network, or behind a proxy, pip needs your index settings." >&2
  exit 2
fi
rm -f "$venv"/.installed-*
touch "$stamp"
echo "The environment is ready after $((SECONDS - started)) seconds."
