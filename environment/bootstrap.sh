#!/bin/sh
# Makes .venv at the root of the project: a Python >= 3.11, uv, and every package of
# environment/requirements.lock with its hash checked. Prints nothing when all is in place.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
stamp=$root/.venv/.ready
cd "$root"
cache=$(sh environment/cache_folder.sh)
# Don't take Python or uv from an activated .venv, because it may be removed below.
case $PATH in "$root/.venv/bin:"*) PATH=${PATH#"$root/.venv/bin:"} ;; esac
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
# pip only fetches uv, into a folder of its own: the user's rules on where pip may install don't fit that.
export PIP_REQUIRE_VIRTUALENV=0 PIP_USER=0 PIP_DRY_RUN=0
unset PIP_PREFIX PIP_ROOT

fail() { printf '%s\nFix: %s\n' "$1" "$2" >&2; exit 1; }

# After a change of a lock the environment is made anew, never updated in place.
key=$(cat environment/requirements.lock environment/uv.txt environment/bootstrap.sh | cksum)
key="$key $root"
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ] && [ -x .venv/bin/python ] && [ -x .venv/bin/uv ] && exit 0

python=
for p in ${PYTHON:+"$PYTHON"} python3 python3.12 python3.11 python3.13; do
    "$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && python=$p && break
    # A Python that PYTHON names is never silently replaced by another.
    [ "$p" != "${PYTHON:-}" ] || fail "PYTHON=$PYTHON does not run, or is not a Python from 3.11 to 3.13." \
        "set PYTHON to another one, or unset it to use the one on the PATH"
done
[ -n "$python" ] || fail "No Python from 3.11 to 3.13 was found on the PATH (python3 is $(python3 --version 2>/dev/null || echo missing))." \
    "install one (Ubuntu: sudo apt install python3.12, or python3.11 on 22.04), or give its path: make PYTHON=/path/to/python3.12 lab"

free_mib=$(df -Pm . | awk 'NR==2 {print $4}')
[ "$free_mib" -ge 2048 ] || fail "The set-up needs 2 GiB of disk space in $root, but only $free_mib MiB are free." \
    "free some space, or put the project on another disk"

uv=$(command -v uv || true)
# The options below need uv 0.9 or newer.
if [ -z "$uv" ] || ! "$uv" --version 2>/dev/null | awk '{split($2, v, "."); ok = v[1] > 0 || v[2] >= 9} END {exit !ok}'; then
    uv=$cache/tools/uv/bin/uv
    if ! "$uv" --version >/dev/null 2>&1; then
        echo "Fetching uv into $cache/tools ..."
        "$python" -m pip --version >/dev/null 2>&1 ||
            fail "Neither uv nor pip was found." "install pip (Ubuntu: sudo apt install python3-pip), or uv"
        mkdir -p "$cache/tools" ||
            fail "The folder $cache can't be written." "make it writable, or choose another folder: make LABS_CACHE=/some/folder lab"
        rm -rf "$cache/tools/uv.partial"
        "$python" -m pip install --quiet --no-deps --require-hashes --only-binary :all: \
            --target "$cache/tools/uv.partial" -r environment/uv.txt ||
            fail "uv could not be fetched from the package index (pip's message is above)." \
                "check the network, and pip's index and proxy settings, then run the same command again"
        rm -rf "$cache/tools/uv"
        mv "$cache/tools/uv.partial" "$cache/tools/uv"
    fi
fi

eval "$("$python" environment/package_index.py)"

echo "Making .venv with $("$python" --version) ..."
rm -rf .venv
"$uv" venv --quiet --python "$(command -v "$python")" .venv ||
    fail "The environment .venv could not be made (uv's message is above)." \
        "correct what uv reports, then run the same command again"
"$uv" pip install --quiet --python .venv/bin/python --require-hashes --no-deps -r environment/requirements.lock ||
    fail "The packages of environment/requirements.lock could not be installed (uv's message is above)." \
        "check the network, the disk, and pip's index and proxy settings, then run the same command again"
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e . ||
    fail "The project itself could not be installed into .venv (uv's message is above)." \
        "run the same command again; if it fails again, run make clean first"
ln -sf "$uv" .venv/bin/uv
# Otherwise JupyterLab asks each new user whether to fetch its news.
mkdir -p .venv/etc/jupyter/labconfig
echo '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}' \
    > .venv/etc/jupyter/labconfig/page_config.json
printf '%s\n' "$key" > "$stamp"
