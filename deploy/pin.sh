#!/usr/bin/env bash
# Print constraints.txt: the versions that a virtual environment holds, ours left out.
#   deploy/pin.sh .venv/bin/python > constraints.txt
set -euo pipefail
python=${1:?usage: deploy/pin.sh PYTHON}
echo "# The versions that umekomi is built and tested with. \`make constraints\` writes this file; Python 3.11 to 3.13."
# A build of torch (+cpu, +cu126) is the machine's choice; so are the CUDA libraries that come with one.
"$python" -m pip --disable-pip-version-check freeze --exclude-editable --exclude umekomi \
    | sed -E 's/^(torch==[0-9.]+)\+.*/\1/; /^(nvidia-|cuda-|triton)/d; / @ /d'
