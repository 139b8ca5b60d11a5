#!/usr/bin/env bash
# Builds the program of the landing before (tests/previous-revision), which tests/e2e/test_upgrade.py runs beside
# the present one. Once for each revision; what the present build has compiled of others' packages is used again.
set -euo pipefail
cd "$(dirname "$0")/.."
revision=$(cat tests/previous-revision)
target=${CARGO_TARGET_DIR:-$HOME/.cache/bixi-target}
home=$target/previous
if [ -x "$home/bixi" ] && [ "$(cat "$home/revision" 2>/dev/null)" = "$revision" ]; then
  exit 0
fi
if ! git cat-file -e "$revision^{commit}" 2>/dev/null; then
  echo "the history here does not reach back to $revision: versions side by side are not tested" >&2
  exit 0
fi
rm -rf "$home"
mkdir -p "$home/tree" "$home/build/release"
git archive "$revision" | tar -x -C "$home/tree"
for part in build deps .fingerprint; do
  if [ -d "$target/release/$part" ]; then
    cp -a "$target/release/$part" "$home/build/release/"
  fi
done
(cd "$home/tree" && find . -name '*.rs' -exec touch {} + && CARGO_TARGET_DIR="$home/build" cargo build --release --locked --package bixi)
mv "$home/build/release/bixi" "$home/bixi"
rm -rf "$home/build" "$home/tree"
echo "$revision" > "$home/revision"
