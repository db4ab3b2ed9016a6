# To be sourced after fresh_copy.sh: the README's test command in a second environment, with the next TorchRL.

# The last nightly before 0.15, and the tensordict it was made for; a real 0.15 takes their place where it can be had.
stand_in=torchrl-nightly==2026.10.27

# A distribution "torchrl 0.15.0" that is empty but for its need of the nightly, which has another name: so the
# package's own requirements resolve as they will with the real one.
build_stand_in() {
  mkdir "$work/stand_in"
  cat >"$work/stand_in/pyproject.toml" <<TOML
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "torchrl"
version = "0.15.0"
dependencies = ["$stand_in"]
[tool.setuptools]
packages = []
TOML
  python -m pip wheel --quiet --no-deps --wheel-dir "$work/wheels" "$work/stand_in"
}

# The README's command up to its tests, into .venv-next, with the constraints but for TorchRL's.
install_next() {
  local install=${command%%&& .venv/bin/python -m pytest*}
  bash -euo pipefail -c "${install//.venv/.venv-next}"
}

# Sets next_python; fails where the index has neither 0.15 nor the stand-in.
make_next_environment() {
  grep -v -e '^torchrl==' -e '^tensordict==' tests/constraints.txt >"$work/constraints"
  printf '%s\n' 'torchrl>=0.15,<0.16' 'tensordict>=0.15,<0.16' >>"$work/constraints"
  cp "$work/constraints" tests/constraints.txt
  next_python=$work/copy/.venv-next/bin/python
  if install_next; then
    return
  fi
  echo "the index has no torchrl 0.15: $stand_in stands in"
  build_stand_in && PIP_FIND_LINKS="$work/wheels ${PIP_FIND_LINKS:-}" install_next || return
  # The nightly asks for tensordict's too, which writes to the same folder.
  "$next_python" -m pip uninstall --quiet --yes tensordict-nightly &&
    "$next_python" -m pip install --quiet --no-deps --force-reinstall -c tests/constraints.txt tensordict
}

# Fails if a test does; tells where there was nothing to test with.
test_next() {
  local made=yes
  make_next_environment || made=no
  git checkout --quiet tests/constraints.txt
  if [[ $made == no ]]; then
    untested="NOT TESTED WITH THE NEXT TORCHRL: neither torchrl 0.15 nor $stand_in can be installed"
    printf '\n!! %s\n' "$untested" >&2
    return
  fi
  "$next_python" -m pip list | grep -i -e '^torch' -e '^tensordict'
  bash -euo pipefail -c ".venv-next/bin/python -m pytest${command##*.venv/bin/python -m pytest}"
}
