#!/usr/bin/env bash
# Counts what a GET costs a node in instructions, outside the kernel. `benches/instructions.sh --help` has the rest.
set -euo pipefail

DEPTH=1      # 16: pipelined
SECONDS_LONG=8
TOP=25       # functions that are told

usage() {
  cat <<'END'
Usage: benches/instructions.sh [OPTIONS]

Starts a node of its own under valgrind's callgrind, lets wrk ask it for keys that it has, over 64 connections, and tells
how many instructions of the program (the kernel's are not seen) a GET takes, and in which functions. What a count says
does not depend on how busy the machine is; memory that is waited for does not show in it.

  --pipelined   16 requests at a time on each connection
  -d SECONDS    how long (8)
  -h, --help    this

Environment: DKV_BIN (target/release/dkv). valgrind, wrk and curl are needed: sudo apt-get install valgrind wrk curl
END
}

fail() {
  printf 'instructions.sh: %s\n' "$*" >&2
  exit 1
}

read_arguments() {
  while (($# > 0)); do
    case $1 in
      --pipelined) DEPTH=16 ;;
      -d)
        [[ ${2-} =~ ^[1-9][0-9]{0,3}$ ]] || fail "-d takes a number of seconds"
        SECONDS_LONG=$2
        shift
        ;;
      -h | --help)
        usage
        exit 0
        ;;
      *) fail "unknown option $1: see --help" ;;
    esac
    shift
  done
}

PIDS=()
finish() {
  local pid
  for pid in "${PIDS[@]}"; do
    kill -CONT "$pid" 2>/dev/null || true
    kill "$pid" 2>/dev/null || true
  done
  wait
  rm -rf "$WORK"
}

start_node() {
  local port=$((20000 + RANDOM % 10000)) tries=0
  ADDRESS=127.0.0.1:$port
  printf '[[shard]]\nname = "a"\nidx = 0\naddress = "%s"\nreplicas = []\n' "$ADDRESS" >"$WORK/sharding.toml"
  valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file="$WORK/counted" \
    "$BIN" serve --config "$WORK/sharding.toml" --data-dir "$WORK/data" --address "$ADDRESS" >"$WORK/node" 2>&1 &
  NODE=$!
  PIDS+=("$NODE")
  until curl -sf --noproxy '*' -o "$WORK/ready" "http://$ADDRESS/readyz"; do
    if ((++tries > 300)) || ! kill -0 "$NODE" 2>/dev/null; then
      fail "the node does not start: $(tail -n 3 "$WORK/node")"
    fi
    sleep 0.1
  done
}

answered() {
  curl -sf --noproxy '*' "http://$ADDRESS/metrics" |
    awk '/^dkv_http_request_duration_seconds_count\{call="get"/ { sum += $2 } END { print sum + 0 }'
}

# Fills the node, and sets WRK to a wrk that asks it for more than long enough.
start_load() {
  local script=get tries=0
  ((DEPTH == 1)) || script=pipelined
  "$HERE/wrk/run.sh" -a "$ADDRESS" --no-check -d $((SECONDS_LONG + 60)) "$script" >"$WORK/load" 2>&1 &
  local run=$!
  PIDS=("$run" "${PIDS[@]}")
  until WRK=$(pgrep -P "$run" -x wrk) && (($(answered) > 2000)); do
    if ((++tries > 1200)) || ! kill -0 "$run" 2>/dev/null; then
      fail "the load does not start: $(tail -n 3 "$WORK/load")"
    fi
    sleep 0.1
  done
  PIDS=("$WRK" "${PIDS[@]}")
}

main() {
  read_arguments "$@"
  HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  BIN=${DKV_BIN:-${CARGO_TARGET_DIR:-$HERE/../target}/release/dkv}
  [[ -x $BIN ]] || fail "$BIN is not built yet: cargo build --release"
  local tool before after total
  for tool in valgrind callgrind_control callgrind_annotate wrk curl; do
    command -v "$tool" >/dev/null || fail "$tool is not installed: sudo apt-get install valgrind wrk curl"
  done
  WORK=$(mktemp -d)
  trap finish EXIT

  start_node
  start_load
  # While the load stands still nothing is under way: so the two counts are of the same requests.
  kill -STOP "$WRK"
  sleep 1
  before=$(answered)
  callgrind_control -i on "$NODE" >"$WORK/control" 2>&1
  kill -CONT "$WRK"
  sleep "$SECONDS_LONG"
  kill -STOP "$WRK"
  sleep 1
  callgrind_control -i off "$NODE" >"$WORK/control" 2>&1
  after=$(answered)
  kill -CONT "$WRK"
  kill "$WRK"
  kill "$NODE"
  wait "$NODE" || true
  ((after > before)) || fail "no GET was answered: $(tail -n 3 "$WORK/load")"

  callgrind_annotate --inclusive=no "$WORK/counted" >"$WORK/told" 2>"$WORK/annotate"
  total=$(awk '/PROGRAM TOTALS/ { gsub(",", "", $1); print $1; exit }' "$WORK/told")
  printf '%s, %s, 64 connections, %s deep: %s GETs, %s instructions each\n\n' \
    "$("$BIN" --version)" "$(valgrind --version)" "$DEPTH" "$((after - before))" "$((total / (after - before)))"
  printf 'instructions  function\n'
  awk -v gets=$((after - before)) -v top="$TOP" '
    /PROGRAM TOTALS/ { on = 1; next }
    on && /^ *[0-9][0-9,]* *\(/ && n < top {
      count = $1; gsub(",", "", count)
      name = $0; sub(/^[^)]*\) */, "", name); sub(/^[^:]*:/, "", name); sub(/ \[.*/, "", name)
      printf "%12.1f  %s\n", count / gets, name; n++
    }' "$WORK/told"
}

main "$@"
