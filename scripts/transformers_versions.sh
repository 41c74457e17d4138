#!/usr/bin/env bash
# Do the model's transformers class and its generation work with other releases of transformers?
#
#   scripts/transformers_versions.sh [VERSION…]        default: the oldest that pyproject.toml allows, and the newest published
#
# Each release is installed, alone, into a folder beside .venv and put before it on the path; the tests of vamba/hf run there.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV="${VENV:-.venv}"
PY="$VENV/bin/python"
oldest="$(sed -n 's/^ *"transformers>=\([0-9.]*\).*/\1/p' pyproject.toml)"

install() { # requirement folder
    "$PY" -m pip install --quiet --disable-pip-version-check --no-deps --target "$2" "$1"
}

status=0
for version in "${@:-$oldest newest}"; do
    for one in $version; do
        folder="$VENV/transformers-$one"
        rm -rf "$folder"
        if [ "$one" = newest ]; then install "transformers<6" "$folder"; else install "transformers==$one" "$folder"; fi
        # A release may want another huggingface_hub than the one that is installed, and that one its own HTTP client.
        wanted="$(sed -n 's/^ *"huggingface-hub": "\(.*\)",/\1/p' "$folder"/transformers/dependency_versions_table.py)"
        "$PY" -c "import sys; from importlib.metadata import version; from packaging.requirements import Requirement as R
sys.exit(not R('$wanted').specifier.contains(version('huggingface_hub')))" ||
            for package in "$wanted" httpx httpcore h11 anyio certifi idna sniffio hf-xet; do install "$package" "$folder"; done
        echo "== transformers $(PYTHONPATH="$folder" "$PY" -c 'import transformers; print(transformers.__version__)')"
        PYTHONPATH="$folder" OMP_NUM_THREADS=1 "$PY" -m pytest -q tests/vamba/hf tests/golden/test_transformers_class.py || status=$?
    done
done
exit $status
