#!/usr/bin/env bash
# Looks up every locked package in the database of known vulnerabilities (OSV): `make audit`. It needs the network.
#
# pip-audit gets an environment of its own, so that the locks need not hold it. A package that can't be looked up is an error
# (--strict): without the network nothing is known, and that must not read as "nothing found".
set -euo pipefail
cd "$(dirname "$0")/.."
VENV="${VENV:-.venv}"

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$VENV/bin/python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "pip-audit==2.10.1"
status=0
for lock in requirements/*.lock; do
    # A build's suffix (torch's +cpu) is no part of a version that the database knows.
    sed -E 's/\+[A-Za-z0-9.]+$//' "$lock" > "$folder/$(basename "$lock" .lock).txt"
    echo "$lock:"
    "$folder/venv/bin/pip-audit" --strict --disable-pip --no-deps --vulnerability-service osv --progress-spinner off \
        --requirement "$folder/$(basename "$lock" .lock).txt" || status=1
done
exit "$status"
