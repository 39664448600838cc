#!/usr/bin/env bash
# Lock every requirements file with hashes; one version of a package across all of them.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$@"; }
compile --universal --python-version 3.11 requirements/dev.in -o requirements/dev.txt
compile --universal --python-version 3.11 -c requirements/dev.txt requirements/local.in -o requirements/local.txt
compile --universal --python-version 3.11 -c requirements/dev.txt requirements/examples.in -o examples/requirements.txt
compile --universal --python-version 3.11 requirements/sam.in -o requirements/sam.txt
for target in functions layers/data layers/pictures; do
  compile --python-version 3.13 --python-platform x86_64-manylinux_2_28 -c requirements/dev.txt \
    "requirements/${target##*/}.in" -o "$target/requirements.txt"
done
