# To be sourced: a fresh copy of the committed tree in $work/copy, entered, and the README's test command in $command.

root=$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

section() { printf '\n== %s\n' "$1"; }

section "fresh copy and fresh environment"
git clone --quiet --no-hardlinks "$root" "$work/copy"
cd "$work/copy"
if [[ -n $(git -C "$root" status --porcelain) ]]; then
  echo "note: uncommitted changes of the working tree are not tested"
fi
unset PYTHONPATH VIRTUAL_ENV

# The README holds the command itself; nothing here repeats it.
command=$(awk '
  /^<!-- command: test -->$/ { marked = 1; next }
  marked && /^```bash$/ { inside = 1; next }
  inside && /^```$/ { exit }
  inside { print; next }
  { marked = 0 }
' README.md)
if [[ -z $command || $(wc -l <<<"$command") -ne 1 ]]; then
  echo "README.md: one command is expected in a bash block right under <!-- command: test -->, got: '$command'" >&2
  exit 1
fi

# `python` of the README is this environment's, so that the machine need not have one of that name.
"$(command -v python3 || command -v python)" -m venv "$work/env"
export PATH="$work/env/bin:$PATH"
