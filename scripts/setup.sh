#!/usr/bin/env bash
# Makes the local environment: .venv with the exact versions of requirements/*.lock and the project itself, editable.
#
#   find Python 3.11/3.12 -> .venv (no ensurepip needed: pip comes from scripts/bootstrap) -> torch -> the locks, in batches
#   -> kernels (for the GPU where there is an NVIDIA driver, else for tests) -> the project -> a stamp that names all this
#
# Each batch is installed before the next is downloaded, so that a broken download costs one batch: run it again and it goes on.
# With an unchanged stamp nothing is done. Variables: PYTHON, TORCH_INDEX, DEVICE=cpu|cuda, VENV. Full output: $VENV/setup.log
set -euo pipefail
cd "$(dirname "$0")/.."

VENV="${VENV:-.venv}"
TORCH_VERSION="2.13.0"
BATCH=40
# Where PyTorch publishes its CPU builds; asked only when the indexes that pip is configured with have none.
PYTORCH_CPU_INDEX="https://download.pytorch.org/whl/cpu"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore PIP_REQUIRE_VIRTUALENV=0 PYTHONNOUSERSITE=1
unset PYTHONPATH PYTHONHOME

say() { printf '%s\n' "$*" >&2; }
die() { say "setup: $*"; exit 1; }

device() {
    if [ -n "${DEVICE:-}" ]; then
        case "$DEVICE" in cpu | cuda) echo "$DEVICE" ;; *) die "DEVICE=$DEVICE is not one of: cpu, cuda." ;; esac
    elif [ -e /proc/driver/nvidia/version ] || nvidia-smi -L >/dev/null 2>&1; then
        echo cuda
    else
        echo cpu
    fi
}

stamp_of() { # device
    { cat requirements/*.lock pyproject.toml scripts/setup.sh; echo "$1 $PWD"; } | sha256sum | cut -d' ' -f1
}

suits() { "$1" -c 'import sys, venv, ssl; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1; }

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        suits "$PYTHON" && { echo "$PYTHON"; return; }
        die "PYTHON=$PYTHON is not a working Python 3.11 or 3.12 ($("$PYTHON" --version 2>&1 | head -n 1))."
    fi
    for candidate in python3 python3.12 python3.11; do
        suits "$candidate" && { echo "$candidate"; return; }
    done
    die "no Python 3.11 or 3.12 found (tried python3, python3.12, python3.11). Install one, for example
  sudo apt-get install python3.12        # Ubuntu 24.04; python3.11 on Debian 12
or name one: make setup PYTHON=/path/to/python3.12"
}

# Shows what pip is at, on one line on a terminal and as a line per ten packages elsewhere; the log gets everything.
show_progress() { # label total
    awk -v label="$1" -v total="$2" -v tty="$([ -t 2 ] && echo 1 || echo 0)" -v log_file="$VENV/setup.log" '
        { print >> log_file; fflush(log_file) }
        /^(Collecting|Processing|Requirement already satisfied:) / {
            seen++; name = $1 == "Requirement" ? $4 : $2; sub(/.*\//, "", name); sub(/[=<>!~;].*/, "", name)
            if (tty) printf "\r\033[K  %s %d/%d %s", label, seen, total, name > "/dev/stderr"
            else if (seen % 10 == 0 && seen < total) printf "  %s %d/%d\n", label, seen, total > "/dev/stderr"
        }
        /^Installing collected/ && tty { printf "\r\033[K  %s %d/%d installing", label, seen, total > "/dev/stderr" }
        END { if (tty) printf "\r\033[K" > "/dev/stderr" }'
}

pip_install() { # label total arguments...
    local label="$1" total="$2"
    shift 2
    "$VENV/bin/python" -m pip install --no-deps --no-compile --progress-bar off "$@" 2>&1 | show_progress "$label" "$total"
}

installed_torch() {
    "$VENV/bin/python" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true
}

install_cpu_torch() {
    case "$(installed_torch)" in "$TORCH_VERSION" | "$TORCH_VERSION"+*) return ;; esac
    if [ -n "${TORCH_INDEX:-}" ]; then
        say "  torch $TORCH_VERSION from TORCH_INDEX=$TORCH_INDEX"
        pip_install torch 1 --index-url "$TORCH_INDEX" "torch==$TORCH_VERSION" || failed "TORCH_INDEX has no torch $TORCH_VERSION for this Python"
        return
    fi
    say "  torch $TORCH_VERSION, CPU build"
    pip_install torch 1 "torch==$TORCH_VERSION+cpu" && return
    pip_install torch 1 --index-url "$PYTORCH_CPU_INDEX" --timeout 15 --retries 1 "torch==$TORCH_VERSION+cpu" && return
    say "  No index within reach has the CPU build for this Python, so the CUDA build is installed: 3 GB more, works without a GPU."
    say "  (To avoid it, stop here and give a mirror of PyTorch's CPU index: make setup TORCH_INDEX=URL)"
    install_lock requirements/gpu.lock
    pip_install torch 1 "torch==$TORCH_VERSION" || failed "torch $TORCH_VERSION could not be downloaded"
}

install_lock() { # file...
    local lines total done_count=0 batch
    # Triton stands in two locks: the GPU needs it, and tests need it where there is none.
    lines="$(cat "$@" | grep -v '^ *#' | grep . | awk '!seen[$0]++')"
    total="$(wc -l <<<"$lines")"
    while [ "$done_count" -lt "$total" ]; do
        batch="$(mktemp)"
        tail -n +"$((done_count + 1))" <<<"$lines" | head -n "$BATCH" >"$batch"
        pip_install "packages $((done_count + 1))-$((done_count + $(wc -l <"$batch"))) of $total:" "$(wc -l <"$batch")" \
            --only-binary=:all: --requirement "$batch" || { rm -f "$batch"; failed "a package could not be installed"; }
        done_count=$((done_count + $(wc -l <"$batch")))
        rm -f "$batch"
    done
}

# Built against the torch just installed. flash-attn needs nvcc. What mamba-ssm would compile is Mamba-1, which nothing here
# uses: its Mamba-2 kernels are Triton.
install_kernels() {
    local lock=requirements/gpu-kernels.lock wanted
    export MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE
    if command -v nvcc >/dev/null 2>&1 || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
        say "  kernels: building flash-attn with nvcc (it can take an hour; MAX_JOBS limits the memory)"
        wanted="$(grep -v '^ *#' $lock)"
    else
        say "  kernels: no nvcc, so only mamba-ssm's Triton kernels are installed; vamba uses torch's attention instead of flash-attn."
        say "  (For flash-attn install the CUDA toolkit of torch's version and run: make setup)"
        wanted="$(grep '^mamba-ssm' $lock)"
    fi
    # shellcheck disable=SC2086
    pip_install kernels "$(wc -l <<<"$wanted")" --no-build-isolation $wanted || failed "a kernel package could not be built"
}

# Without a GPU, tests run mamba-ssm's Triton kernels in Triton's interpreter. Its package is Python alone and needs no
# compiler. Nothing else needs it, so an index without it does not stop the setup.
install_test_kernels() {
    local wanted
    wanted="$(grep '^mamba-ssm' requirements/gpu-kernels.lock)"
    say "  kernels for tests: $wanted, without a build"
    MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE pip_install kernels 1 --no-build-isolation "$wanted" ||
        say "  note: $wanted could not be installed (see $VENV/setup.log); only tests of its kernels need it"
}

# What pip finds inconsistent, but for packages that mamba-ssm asks for and Mamba-2 never loads, and lmms-eval's of tasks
# and models that are not ours.
remarks() {
    "$VENV/bin/python" -m pip check 2>&1 | tee -a "$VENV/setup.log" |
        grep -vE '^(mamba-ssm .* requires (tilelang|apache-tvm-ffi|quack-kernels|ninja)|lmms-eval .* (requires|has requirement) |No broken requirements)' || true
}

# Loads what every command loads. It shows that the installation works, and it compiles these modules once: compiling all
# of them at installation takes longer than everything else together.
prove() {
    local first="import torch, transformers, safetensors, tokenizers, webdataset, av, simplejpeg, imageio_ffmpeg, ffmpeg"
    local second="import ray.data, ray.train.torch, mlflow.pytorch, pyarrow.dataset, pydantic, typer, matplotlib.pyplot"
    say "  loading what was installed"
    "$VENV/bin/python" -c "$first" >>"$VENV/setup.log" 2>&1 &
    "$VENV/bin/python" -c "$second" >>"$VENV/setup.log" 2>&1 || failed "an installed package does not load"
    wait $! || failed "an installed package does not load"
}

failed() { # what
    say ""
    tail -n 12 "$VENV/setup.log" | sed 's/^/    /' >&2
    die "$1; the full output is in $VENV/setup.log.
What is installed stays: when the network is back, run the same command again and it goes on from there."
}

main() {
    local target python pip_wheel started=$SECONDS
    target="$(device)"
    if [ -n "${PYTHON:-}" ] && suits "$VENV/bin/python" && [ "$(version_of "$VENV/bin/python")" != "$(version_of "$PYTHON")" ]; then
        python="$(find_python)" # refuses before anything is removed
        rm -rf "$VENV"
    fi
    if [ "$(cat "$VENV/setup.stamp" 2>/dev/null)" = "$(stamp_of "$target")" ]; then return; fi

    if ! suits "$VENV/bin/python"; then
        python="$(find_python)"
        say "setup: $VENV with $("$python" --version) ($target); this takes two or three minutes once"
        "$python" -m venv --clear --without-pip "$VENV"
    else
        say "setup: bringing $VENV ($("$VENV/bin/python" --version), $target) to the locked versions"
    fi
    rm -f "$VENV/setup.stamp"
    : >"$VENV/setup.log"
    pip_wheel="$(echo scripts/bootstrap/pip-*.whl)"
    "$VENV/bin/python" "$pip_wheel/pip" install --quiet --no-index "$pip_wheel" >>"$VENV/setup.log" 2>&1 ||
        failed "pip could not be installed"
    if [ "$target" = cuda ]; then
        install_lock requirements/cpu.lock requirements/dev.lock requirements/lmms-eval.lock requirements/gpu.lock
        install_kernels
    else
        install_cpu_torch
        install_lock requirements/cpu.lock requirements/dev.lock requirements/lmms-eval.lock
        install_test_kernels
    fi
    pip_install project 1 --no-build-isolation --editable . || failed "the project itself could not be installed"
    prove
    [ -z "$(remarks)" ] || say "  note: 'pip check' has remarks, see $VENV/setup.log"
    stamp_of "$target" >"$VENV/setup.stamp.new"
    mv "$VENV/setup.stamp.new" "$VENV/setup.stamp"
    say "setup: done in $((SECONDS - started)) s"
}

main
