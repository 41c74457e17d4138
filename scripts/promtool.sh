#!/usr/bin/env bash
# Puts Prometheus' `promtool`, which tests the alert rules, into the environment: it comes as no Python package.
#
# Nothing is done where one is on the PATH. Otherwise it is taken out of Debian's or Ubuntu's package `prometheus`, which is not
# installed: no root is needed, and no server starts. Where that can't be had (another system, no network) a note is left.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV="${VENV:-.venv}"

command -v promtool >/dev/null 2>&1 && exit 0
[ -x "$VENV/bin/promtool" ] && exit 0

note() { echo "note: $*; the tests of the alert rules need promtool (Debian: apt-get install prometheus)" >&2; exit 0; }
command -v apt-get >/dev/null 2>&1 || note "there is no apt-get here"

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
fetch() { (cd "$folder" && apt-get download -qq prometheus) >/dev/null 2>&1; }
fetch || { [ "$(id -u)" = 0 ] && apt-get update -qq >/dev/null 2>&1 && fetch; } || note "Debian's package prometheus can't be downloaded"
dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -x -C "$folder" ./usr/bin/promtool
mv "$folder/usr/bin/promtool" "$VENV/bin/promtool"
