#!/usr/bin/env bash
# Measures a running one-process server by `bixi bench`: three directories, copies:3, then ec:2+1.
#
#   BIXI=path of the program   BENCH_DIR=where the store is made (removed afterwards)   SECS=per figure
#
# A cold get reads each object once, the first time since it was written: from the disk, by direct
# IO, past the caches of Bixi and the kernel (the disk's own, or a virtual machine's host's, may
# still answer; the line's `limit` has direct reads of the same size beside it).
#
# The machine's own limits (`bixi bench disk`) are measured in the same run, since figures mean
# little without them.
set -euo pipefail

BIXI=${BIXI:-${CARGO_TARGET_DIR:-$HOME/.cache/bixi-target}/release/bixi}
BENCH_DIR=${BENCH_DIR:-$HOME/.cache/bixi-bench.$$}
SECS=${SECS:-5}
S3=127.0.0.1:${S3_PORT:-19000}
export BIXI_ADMIN_ADDR=127.0.0.1:${ADMIN_PORT:-19001}
server=

stop() {
  [ -z "$server" ] || { kill -TERM "$server" 2>/dev/null || true; wait "$server" || true; }
  server=
}
trap 'stop; rm -rf -- "$BENCH_DIR"' EXIT

start() { # REDUNDANCY
  local dirs=("$BENCH_DIR/$1/a" "$BENCH_DIR/$1/b" "$BENCH_DIR/$1/c")
  mkdir -p "$BENCH_DIR/$1"
  local began
  began=$(date +%s%N)
  "$BIXI" server "${dirs[@]}" --redundancy "$1" --s3-addr "$S3" --admin-addr "$BIXI_ADMIN_ADDR" \
    >"$BENCH_DIR/$1/log" 2>&1 &
  server=$!
  until curl -sf -o /dev/null "http://$BIXI_ADMIN_ADDR/health/ready"; do
    kill -0 "$server" 2>/dev/null || { cat "$BENCH_DIR/$1/log" >&2; exit 1; }
    sleep 0.01
  done
  echo "== $1: ready $(( ($(date +%s%N) - began) / 1000000 )) ms after exec"
  export BIXI_CREDENTIALS=${dirs[0]}/credentials
}

measure() { # OP SIZE CONCURRENCY [--cold]
  printf -- '-- %s%s %s, %s at once\n' "${4:+cold }" "$1" "$2" "$3"
  "$BIXI" bench s3 --op "$1" --size "$2" -c "$3" --secs "$SECS" ${4:-}
}

mkdir -p "$BENCH_DIR"
echo "== limits of this machine"
"$BIXI" bench disk "$BENCH_DIR"
for redundancy in copies:3 ec:2+1; do
  start "$redundancy"
  began=$SECONDS
  measure put 4k 16
  measure put 4k 1
  measure get 4k 16
  measure get 64k 16 --cold
  measure put 1M 8
  measure get 1M 8
  measure get 1M 8 --cold
  measure list 4k 1
  sleep $(( began + 30 > SECONDS ? began + 30 - SECONDS : 0 ))
  awk '/VmRSS/ { printf "-- resident memory %d MB, %d s after start\n", $2 / 1024, '"$(( SECONDS - began ))"' }' "/proc/$server/status"
  stop
done
