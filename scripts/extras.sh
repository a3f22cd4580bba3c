#!/usr/bin/env bash
# Installs the extras `gguf` (llama.cpp, built here) and `lm-eval` into the environment, and llama.cpp's converter into VENV/cache:
#   scripts/extras.sh VENV STAMP
# llama.cpp is built for every processor of this kind: what is built for this one alone crashes on some virtual machines, whose
# processor names instructions that it cannot do. CMAKE_ARGS says otherwise: CMAKE_ARGS=-DGGML_CUDA=on make extras
export CMAKE_ARGS="${CMAKE_ARGS--DGGML_NATIVE=OFF}"
set -euo pipefail
venv=$1 stamp=$2
log=$venv/extras.log
started=$SECONDS

version=$(sed -n 's/^llama_cpp_python==//p' constraints.txt)
if ! "$venv/bin/python" -c "import importlib.metadata as m, sys; sys.exit(m.version('llama_cpp_python') != '$version')" 2>/dev/null; then
  if ! command -v c++ >/dev/null && ! command -v g++ >/dev/null && ! command -v clang++ >/dev/null; then
    echo "llama.cpp is built from source and needs a C++ compiler. On Debian and Ubuntu: apt install g++" >&2
    exit 2
  fi
  echo "Building llama.cpp (llama-cpp-python $version). About four minutes on two cores, the first time only."
  command -v cmake >/dev/null || echo "There is no cmake here: pip brings one for the build."
  # Not from pip's cache, which may hold one that was built for the processor of then.
  if ! "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-cache-dir --no-deps -c constraints.txt llama-cpp-python >"$log" 2>&1; then
    tail -n 25 "$log" >&2
    echo "llama.cpp could not be built; the whole log is $log. It needs a C++ compiler and 1 GB of memory for each core." >&2
    exit 2
  fi
fi
if ! "$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[gguf,lm-eval]' >>"$log" 2>&1; then
  tail -n 25 "$log" >&2
  echo "The extras could not be installed; the whole log is $log. llama.cpp is built from source: it needs a C++ compiler and 1 GB of memory for each core." >&2
  exit 2
fi
if ! TUNE_LLAMA_CPP='' TUNE_CACHE_DIR="$venv/cache" "$venv/bin/python" -c 'from nothing_tune.engine.export.gguf import tree; tree()' 2>>"$log"; then
  tail -n 3 "$log" >&2
  exit 2
fi
rm -f "$venv"/.extras-*
touch "$stamp"
echo "llama.cpp and lm-evaluation-harness are ready after $((SECONDS - started)) seconds."
