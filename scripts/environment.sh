# Sourced by demo, test and check: the virtual environment `.venv` in the root of the repository.
#
#   root           the repository's root, an absolute path
#   say, fail      one line to the terminal; the same and the end
#   install WHAT   make `.venv` if it is absent, and install the package with an extra, or
#                  without one where WHAT is empty
#
# All of it can be run again at any time. What is installed already is left alone: a stamp in
# `.venv` holds a fingerprint of `pyproject.toml`, of the place of the checkout and of Python.
# Set PYTHON to choose the interpreter that `.venv` is made with.

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
environment="$root/.venv"
python="$environment/bin/python"

say() { printf '==> %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# The name of a Python 3.11 or newer that can make virtual environments.
find_python() {
    local candidate old=""
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if ! is_recent "$candidate"; then
            old="$candidate is $("$candidate" --version 2>&1 | head -n 1)"
        elif ! "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            old="$candidate has no venv module (on Debian and Ubuntu: apt install python3-venv)"
        else
            printf '%s\n' "$candidate"
            return
        fi
        # A Python that was asked for is never replaced by another one.
        [ "$candidate" != "${PYTHON:-}" ] || break
    done
    fail "no Python 3.11 or newer with the venv module found${old:+; $old}." \
        "Install one, or name it: PYTHON=/path/to/python3.11 $0"
}

make_environment() {
    local base
    if [ -x "$python" ] && "$python" -m pip --version >/dev/null 2>&1; then
        is_recent "$python" || fail "$environment has an older Python than 3.11." \
            "Remove that folder and run this again."
        return
    fi
    base="$(find_python)"
    say "making $environment with $("$base" --version 2>&1)"
    "$base" -m venv "$environment" || fail "$environment could not be made with $base." \
        "Remove that folder if it is there, and run this again."
}

fingerprint() {
    "$python" - "$root/pyproject.toml" <<'PYTHON'
import hashlib, pathlib, sys
text = pathlib.Path(sys.argv[1]).read_bytes()
print(hashlib.sha256(text).hexdigest(), sys.version.split()[0], sys.argv[1])
PYTHON
}

# Install with uv where there is one, otherwise, or where it cannot, with pip.
install_with_best() {
    local target="$1" links="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}"
    if command -v uv >/dev/null 2>&1; then
        if [ -n "$links" ]; then
            # pip parts places by spaces, uv by commas; uv reads only its own variable.
            export UV_FIND_LINKS="${links// /,}"
        fi
        say "uv pip install -e '$target'"
        if uv pip install --python "$python" -e "$target"; then
            return
        fi
        say "uv could not install it; trying pip"
    fi
    say "pip install -e '$target' (the first time this takes minutes and about 2 GB)"
    "$python" -m pip install --disable-pip-version-check -e "$target" || fail \
        "the installation failed; the lines above say why. Without a network, point pip at" \
        "a folder of wheels with PIP_FIND_LINKS, and run this again."
}

install() {
    local extra="$1" wanted stamp
    cd -- "$root"
    make_environment
    wanted="$(fingerprint)"
    # What [dev] brings is enough for everything.
    for stamp in "$environment/installed-${extra:-core}" "$environment/installed-dev"; do
        if [ -f "$stamp" ] && [ "$(cat -- "$stamp")" = "$wanted" ]; then
            say "$environment is up to date"
            return
        fi
    done
    install_with_best ".${extra:+[$extra]}"
    printf '%s\n' "$wanted" >"$environment/installed-${extra:-core}"
}
