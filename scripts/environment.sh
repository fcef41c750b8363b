# Sourced by the scripts beside it, from the repository's root.

# environment NAME REQUIREMENT [FOLDER [CONSTRAINTS]]: makes the virtual environment FOLDER (.venv) if it is missing or was left without a
# working pip, and installs REQUIREMENT (editable) into it, at the versions of the file CONSTRAINTS where one is given. A stamp in FOLDER
# remembers for which pyproject.toml, constraints and Python that was done, so a second run starts at once.
environment() {
  local name=$1 requirement=$2 folder=${3:-.venv} constraints=${4:-} python="" candidate
  # Not only whether it is there: one that was interrupted, moved or made without ensurepip has a python that can install nothing.
  if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    for candidate in python3.11 python3.12 python3.13 python3; do
      if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        python=$candidate
        break
      fi
    done
    if [ -z "$python" ]; then
      echo "scripts/environment.sh: Python 3.11, 3.12 or 3.13 is needed, as python3.11 … or python3 on the PATH" >&2
      return 1
    fi
    echo "making $folder with $("$python" --version)" >&2
    "$python" -m venv --clear "$folder"
  fi

  local stamp=$folder/zhllama-$name.stamp key
  key=$("$folder/bin/python" -c 'import hashlib, sys; print(*(hashlib.sha256(open(name, "rb").read()).hexdigest() for name in sys.argv[1:]), sys.version.split()[0], sys.prefix)' \
    pyproject.toml ${constraints:+"$constraints"})
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ]; then
    return 0
  fi
  echo "installing $requirement into $folder (once; about a gigabyte for \"$name\")" >&2
  # Twice -q: errors only. Index locations that do not exist on this machine would otherwise fill the screen.
  PIP_DISABLE_PIP_VERSION_CHECK=1 "$folder/bin/python" -m pip install -q -q ${constraints:+--constraint "$constraints"} --editable "$requirement"
  printf '%s\n' "$key" >"$stamp"
}

# llama_cpp: makes .venv-llama-cpp with llama-cpp-python, compiled here by the Python of .venv, if it is not there or cannot be imported. An
# environment of its own: nothing that it needs may change the versions that the tests run with.
llama_cpp() {
  local folder=.venv-llama-cpp
  if "$folder/bin/python" -c "import llama_cpp" >/dev/null 2>&1; then
    return 0
  fi
  if ! command -v c++ >/dev/null && ! command -v g++ >/dev/null && ! command -v clang++ >/dev/null; then
    echo "scripts/environment.sh: llama.cpp is compiled here, and there is no C++ compiler (c++, g++ or clang++) on the PATH" >&2
    return 1
  fi
  echo "compiling llama.cpp in $folder (once; some minutes)" >&2
  .venv/bin/python -m venv --clear "$folder"
  CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc 2>/dev/null || echo 2)} PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$folder/bin/python" -m pip install -q -q --no-binary llama-cpp-python "llama-cpp-python>=0.3.16"
}
