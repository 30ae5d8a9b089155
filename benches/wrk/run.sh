#!/usr/bin/env bash
# Runs one of the wrk scripts against a running cluster. `benches/wrk/run.sh --help` has the rest.
set -euo pipefail

# Settings. Those above VERIFIED are options, too.
ADDRESS=127.0.0.1:8080 # the node that is asked
THREADS=1              # wrk's threads: fewer than the processors, the nodes need some
CONNECTIONS=64         # over all threads
SECONDS_LONG=10        # how long wrk runs
KEYS=10000             # keys, over all threads
WHICH=all              # all: of every shard; local: of the asked node's shard only
VALUE_BYTES=100        # the length of each value
CHECK=yes              # whether every answer's status is looked at
VERIFIED=0             # answers to the filling that were 200 or 201
CONFIG=${DKV_CONFIG:-}
BIN=${DKV_BIN:-}

usage() {
  cat <<'END'
Usage: benches/wrk/run.sh [OPTIONS] SCRIPT

SCRIPT is one of get, set, update, delete, mixed, pipelined, zipf: see the head of each .lua file.

  -a ADDRESS          the node that is asked (127.0.0.1:8080)
  -t THREADS          wrk's threads (1)
  -c CONNECTIONS      wrk's connections, over all threads (64)
  -d SECONDS          how long wrk runs (10)
  -n KEYS             how many keys, over all threads (10000); they are written before, by curl
  --keys all|local    all: keys of every shard, of which the node forwards most; local: keys of its own shard (all)
  --value-size BYTES  the length of each value, 1 to 1000000 (100)
  --no-check          look at no status: wrk itself costs less then, and counts only statuses above 399

Exit code 0: every answer was right. 1: not, or the node does not answer; a line with ERRORS says what.
Environment: DKV_CONFIG (sharding.toml), DKV_BIN (target/release/dkv); both for --keys local only.

Examples:
  benches/wrk/run.sh get
  benches/wrk/run.sh --keys local --no-check -d 30 mixed
  benches/wrk/run.sh -a 10.0.0.1:8080 -t 4 -c 256 -n 1000000 zipf
END
}

fail() {
  printf 'run.sh: %s\n' "$*" >&2
  exit 1
}

# A whole number from $3 to $4, or the end.
number() {
  if ! [[ $2 =~ ^[0-9]{1,9}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
    fail "$1 takes a whole number from $3 to $4, not '$2'"
  fi
  printf '%s' "$((10#$2))"
}

SCRIPT=
read_arguments() {
  while (($# > 0)); do
    case $1 in
      -a | -t | -c | -d | -n | --keys | --value-size) (($# > 1)) || fail "$1 takes a value: see --help" ;;&
      -a) ADDRESS=$2 && shift ;;
      -t) THREADS=$(number -t "$2" 1 256) && shift ;;
      -c) CONNECTIONS=$(number -c "$2" 1 100000) && shift ;;
      -d) SECONDS_LONG=$(number -d "$2" 1 86400) && shift ;;
      -n) KEYS=$(number -n "$2" 1 10000000) && shift ;;
      --keys)
        [[ $2 == all || $2 == local ]] || fail "--keys takes all or local, not '$2'"
        WHICH=$2
        shift
        ;;
      --value-size) VALUE_BYTES=$(number --value-size "$2" 1 1000000) && shift ;;
      --no-check) CHECK=no ;;
      -h | --help)
        usage
        exit 0
        ;;
      -*) fail "unknown option $1: see --help" ;;
      *)
        [[ -z $SCRIPT ]] || fail "one script at a time: $SCRIPT or $1?"
        SCRIPT=$1
        ;;
    esac
    shift
  done
  [[ -n $SCRIPT ]] || fail "which script? see --help"
  [[ -f $HERE/$SCRIPT.lua && $SCRIPT != lib ]] || fail "no script $SCRIPT: see --help"
  ((CONNECTIONS >= THREADS)) || fail "-c $CONNECTIONS is less than -t $THREADS: a thread needs a connection"
  ((KEYS >= THREADS)) || fail "-n $KEYS is less than -t $THREADS: a thread needs a key"
}

prepare() {
  local tool ready
  for tool in wrk curl; do
    command -v "$tool" >/dev/null || fail "$tool is not installed: on Debian: sudo apt-get install $tool"
  done
  ready=$(curl -sS --noproxy '*' --max-time 5 -w '\n%{http_code}' "http://$ADDRESS/readyz" 2>&1) ||
    fail "$ADDRESS does not answer: ${ready%%$'\n'*}. ./launch.sh starts a cluster"
  [[ ${ready##*$'\n'} == 200 ]] || fail "$ADDRESS is not ready: ${ready%$'\n'*}"
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
}

# Prints $1 keys.
numbered_keys() { awk -v keys="$1" 'BEGIN { for (i = 1; i <= keys; i++) printf "bench:%08d\n", i }'; }

# Prints the idx of the shard that ADDRESS has a copy of, and the number of shards.
own_shard() {
  "$BIN" nodes --config "$CONFIG" -o tsv |
    awk -F '\t' -v address="$ADDRESS" '$4 == address { own = $1 } { last = $1 } END { print own "\t" last + 1 }'
}

# Puts KEYS keys into the file that the script reads.
choose_keys() {
  local table shard shards
  if [[ $WHICH == all ]]; then
    numbered_keys "$KEYS" >"$WORK/keys"
    return
  fi
  CONFIG=${CONFIG:-$HERE/../../sharding.toml}
  BIN=${BIN:-${CARGO_TARGET_DIR:-$HERE/../../target}/release/dkv}
  [[ -x $BIN ]] || fail "$BIN is not built yet: ./launch.sh builds it"
  table=$(own_shard) || exit 1
  shard=${table%%$'\t'*} shards=${table##*$'\t'}
  [[ -n $shard ]] || fail "$ADDRESS is no node of $CONFIG: give the right one in DKV_CONFIG"
  # One key in `shards` is of this one, give or take: a third more are drawn than that needs.
  numbered_keys $((KEYS * shards * 4 / 3 + 1000)) | "$BIN" where - --config "$CONFIG" |
    awk -F '\t' -v shard="$shard" -v keys="$KEYS" '$1 == shard && n < keys { print $3; n++ }' >"$WORK/keys"
  (($(wc -l <"$WORK/keys") == KEYS)) || fail "too few keys of shard $shard were found: this should not be"
}

# Writes every key once, and checks that all were taken.
fill() {
  printf '%*s' "$VALUE_BYTES" '' | tr ' ' v >"$WORK/value"
  awk -v address="$ADDRESS" -v file="$WORK/value" '{
    if (NR > 1) print "next"
    printf "url = \"http://%s/set?key=%s\"\nrequest = PUT\ndata-binary = \"@%s\"\n", address, $0, file
    printf "output = /dev/null\nwrite-out = \"%s\"\n", "%{http_code} %{errormsg}\\n"
  }' "$WORK/keys" >"$WORK/list"
  curl --globoff --noproxy '*' --no-progress-meter --parallel --parallel-max 64 --max-time 60 -K "$WORK/list" \
    >"$WORK/filled" 2>"$WORK/curl" || true
  VERIFIED=$(grep -c '^20[01] ' "$WORK/filled" || true)
  if ((VERIFIED != KEYS)); then
    sort "$WORK/filled" | uniq -c | sort -rn | head -n 3 >&2
    fail "$((KEYS - VERIFIED)) of $KEYS keys could not be written"
  fi
}

main() {
  HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  read_arguments "$@"
  prepare
  choose_keys
  fill
  printf '%s: %s keys (%s), values of %s bytes, asking %s\n' "$SCRIPT" "$KEYS" "$WHICH" "$VALUE_BYTES" "$ADDRESS"
  export DKV_BENCH_KEYS=$WORK/keys DKV_BENCH_VALUE_BYTES=$VALUE_BYTES DKV_BENCH_CHECK=$CHECK
  export DKV_BENCH_THREADS=$THREADS
  (cd "$HERE" && wrk -t "$THREADS" -c "$CONNECTIONS" -d "${SECONDS_LONG}s" --timeout 10s -s "$SCRIPT.lua" \
    "http://$ADDRESS") 2>&1 | tee "$WORK/said"
  grep -q '^no errors: ' "$WORK/said" || fail "this run is of no use: see above"
}

main "$@"
