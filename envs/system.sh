#!/bin/sh
# Install what pip cannot bring: GDAL with its headers, a compiler for its Python bindings, venv.
# Does nothing where all of it is there. Debian and Ubuntu; elsewhere it says what to install.
set -eu

python=${PYTHON:-python3}
missing=
command -v gdal-config >/dev/null || missing="$missing libgdal-dev"
command -v g++ >/dev/null || missing="$missing g++"
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
"$python" -c 'import os, sysconfig as s
assert os.path.exists(os.path.join(s.get_path("include"), "Python.h"))' 2>/dev/null ||
    missing="$missing python3-dev"

if ! "$python" -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null; then
    echo "basemake needs Python 3.11 or newer; $python is $("$python" -V 2>&1). Give another:" \
        "make PYTHON=python3.12" >&2
    exit 1
fi
[ -n "$missing" ] || exit 0

become=
if [ "$(id -u)" != 0 ]; then become=sudo; fi
if ! command -v apt-get >/dev/null || { [ -n "$become" ] && ! command -v sudo >/dev/null; }; then
    echo "basemake needs these system packages, by their Debian names:$missing." \
        "Install them (apt-get install$missing) and run make again." >&2
    exit 1
fi
echo "Installing system packages:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of words
$become apt-get update -qq && $become apt-get install -y -qq --no-install-recommends $missing >/dev/null
