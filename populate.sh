#!/usr/bin/env bash
# Fills a running cluster with random data, through its public HTTP interface. `./populate.sh --help` has the rest.
set -euo pipefail

# Settings. Those above BATCH are options, too.
COUNT=10000        # keys
SEED=1             # the same seed gives the same keys and values
CONCURRENCY=64     # requests under way at a time
VALUE_BYTES=100    # the length of each value
WRITE=yes          # whether anything is written
VERIFY=no          # whether all is read back and compared
ATTEMPTS=8         # how often a request is made, at most, each time of another node
PAUSE=0.5          # seconds between two attempts
BATCH=10000        # keys a curl process, at most
BATCH_BYTES=$((128 * 1024 * 1024)) # bytes of values a curl process, at most: it reads its whole list first
CONFIG=${DKV_CONFIG:-}
BIN=${DKV_BIN:-}

usage() {
  cat <<'END'
Usage: ./populate.sh [-n KEYS] [-s SEED] [-c CONCURRENCY] [--value-size BYTES] [--verify | --verify-only]
                     [ADDRESS...]

  -n KEYS             how many keys to write (10000)
  -s SEED             a number: the same seed gives the same keys and values (1)
  -c CONCURRENCY      requests under way at a time, 1 to 300 (64)
  --value-size BYTES  the length of each value, 1 to 67108864 (100)
  --verify            then read every key back, and compare byte for byte
  --verify-only       write nothing: read back what an earlier run with the same options wrote
  ADDRESS...          the nodes to ask in turn; default: all nodes of the configuration

A request that no node has answered for good (no connection, no answer, 500 and above) is made again of the next node,
and counted: a node that restarts or dies meanwhile fails nothing.
Exit code 0: every request succeeded, and every value read back was the one written. 1: not.
Environment: DKV_CONFIG (sharding.toml), DKV_BIN (target/release/dkv).

Examples:
  ./populate.sh
  ./populate.sh -n 100000 -c 200 --value-size 1000 --verify
  ./populate.sh -s 7 127.0.0.1:8080 && ./launch.sh restart && ./populate.sh -s 7 --verify-only
END
}

fail() {
  printf 'populate.sh: %s\n' "$*" >&2
  exit 1
}

# A whole number from $3 to $4, or the end.
number() {
  if ! [[ $2 =~ ^[0-9]{1,10}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
    fail "$1 takes a whole number from $3 to $4, not '$2'"
  fi
  printf '%s' "$((10#$2))"
}

declare -a NODES=()
GIVEN=no
read_arguments() {
  while (($# > 0)); do
    case $1 in
      -n | -s | -c | --value-size) (($# > 1)) || fail "$1 takes a number" ;;&
      -n)
        COUNT=$(number -n "$2" 1 100000000)
        shift
        ;;
      -s)
        SEED=$(number -s "$2" 0 2147483646)
        shift
        ;;
      -c)
        CONCURRENCY=$(number -c "$2" 1 300)
        shift
        ;;
      --value-size)
        VALUE_BYTES=$(number --value-size "$2" 1 67108864)
        shift
        ;;
      --verify) VERIFY=yes ;;
      --verify-only) WRITE=no VERIFY=yes ;;
      -h | --help)
        usage
        exit 0
        ;;
      -*) fail "unknown option $1: see ./populate.sh --help" ;;
      *)
        NODES+=("$1")
        GIVEN=yes
        ;;
    esac
    shift
  done
}

prepare() {
  local here table
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  CONFIG=${CONFIG:-$here/sharding.toml}
  if [[ -z $BIN ]]; then
    BIN=${CARGO_TARGET_DIR:-target}/release/dkv
    [[ $BIN == /* ]] || BIN=$here/$BIN
  fi
  command -v curl >/dev/null || fail "curl is not installed: on Debian: sudo apt-get install curl"
  [[ -x $BIN ]] || fail "$BIN is not built yet: ./launch.sh builds it"
  if [[ $GIVEN == no ]]; then
    table=$("$BIN" nodes --config "$CONFIG" -o tsv) || exit 1
    mapfile -t NODES < <(cut -f4 <<<"$table")
  fi
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
  : >"$WORK/set"
  : >"$WORK/get"
}

# Prints, for the keys whose numbers it reads, what $1 says; $2: the attempt, from 0:
#   keys  the keys, a line each
#   set   a list for curl -K that writes them; values too long for a line of it go into files want/NUMBER
#   get   a list for curl -K that reads them into files got/NUMBER; all values go into files want/NUMBER
# A key's value is a stretch of one random text, so that it costs one call however long it is. The generator is Park
# and Miller's: its products fit a double exactly, so every awk gives the same data.
generate() {
  LC_ALL=C awk -v mode="$1" -v attempt="$2" -v seed="$SEED" -v bytes="$VALUE_BYTES" -v nodes="${NODES[*]}" \
    -v dir="$WORK" '
    function draw(below) { state = (state * 16807) % 2147483647; return state % below }
    BEGIN {
      letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 &=+%?#/;:,.-_~!$()*<>[]{}|^`'\''"
      node_count = split(nodes, node, " ")
      state = seed + 1
      for (i = 0; i < 4096; i++) text = text substr(letters, draw(length(letters)) + 1, 1)
      while (length(text) < bytes + 4096) text = text text
      # All but the first line are of every request: curl forgets its options at "next".
      common = "globoff\nnoproxy = \"*\"\nconnect-timeout = 5\nmax-time = 30\nwrite-out = \"%{http_code} %{url} %{errormsg}\\n\"\n"
    }
    {
      i = $1
      state = (seed * 7919 + i * 104729) % 2147483646 + 1
      draw(2); draw(2)
      key = sprintf("%d:%d:%06x", seed, i, draw(16777216))
      value = substr(i " " substr(text, draw(4096) + 1, bytes), 1, bytes)
      url = "http://" node[(i + attempt) % node_count + 1]
      if (mode == "keys") print key
      if (mode != "keys" && NR > 1) print "next"
      if (mode == "get") printf "%sfail\nurl = \"%s/get?key=%s\"\noutput = \"%s/got/%d\"\n", common, url, key, dir, i
      file = dir "/want/" i
      if (mode == "get" || mode == "set" && bytes > 50000) {
        printf "%s", value > file
        close(file)
        value = "@" file
      }
      if (mode == "set") {
        printf "%surl = \"%s/set?key=%s\"\nrequest = PUT\ndata-binary = \"%s\"\n", common, url, key, value
        print "output = /dev/null"
      }
    }'
}

# Makes the requests $1 (set, get) of the keys numbered $2 to $3; adds a line for each to $WORK/$1: its status, and an
# error message if any. Those without an answer that settles them are made again, and counted in AGAIN.
AGAIN=0
ask() {
  local attempt before
  local -A name=([set]=written [get]=read)
  seq "$2" "$3" >"$WORK/numbers"
  for ((attempt = 0; attempt < ATTEMPTS; attempt++)); do
    ((attempt == 0)) || sleep "$PAUSE"
    generate "$1" "$attempt" <"$WORK/numbers" >"$WORK/list"
    : >"$WORK/again"
    before=$(wc -l <"$WORK/$1")
    { curl --no-progress-meter --parallel --parallel-max "$CONCURRENCY" -K "$WORK/list" 2>"$WORK/curl" || true; } |
      awk -v again="$WORK/again" -v last=$((attempt == ATTEMPTS - 1)) '
        !last && ($1 < 200 || $1 >= 500) { split($2, part, /[=:]/); print part[length(part) - 1] > again; next }
        { code = $1; sub(/^[^ ]* [^ ]* ?/, ""); sub(/ after [0-9]+ ms/, ""); print code, $0 }' |
      progress "${name[$1]}" "$before" >>"$WORK/$1"
    mv "$WORK/again" "$WORK/numbers"
    [[ -s $WORK/numbers ]] || break
    AGAIN=$((AGAIN + $(wc -l <"$WORK/numbers")))
  done
}

# Passes lines through, and counts them on the terminal, if there is one.
progress() {
  local shown=no
  [[ ! -t 2 ]] || shown=yes
  awk -v name="$1" -v done="$2" -v all="$COUNT" -v shown="$shown" '
    { print; n++ }
    shown == "yes" && n % 500 == 0 { printf "\r%s %d of %d", name, done + n, all > "/dev/stderr" }
    END { if (shown == "yes") printf "\r%s %d of %d", name, done + n, all > "/dev/stderr" }'
}

# Runs function $1 FROM TO over all keys in batches; TOOK is how long all took, in milliseconds.
TOOK=0
in_batches() {
  local from to start=${EPOCHREALTIME/[.,]/} batch=$((BATCH_BYTES / VALUE_BYTES))
  ((batch <= BATCH)) || batch=$BATCH
  for ((from = 1; from <= COUNT; from += batch)); do
    to=$((from + batch - 1 < COUNT ? from + batch - 1 : COUNT))
    "$1" "$from" "$to"
  done
  [[ ! -t 2 ]] || printf '\n' >&2
  TOOK=$(((${EPOCHREALTIME/[.,]/} - start) / 1000))
}

write_batch() {
  rm -rf "$WORK/want"
  mkdir "$WORK/want"
  ask set "$1" "$2"
}

# What differs from want/ goes to $WORK/bad, a line a key.
read_batch() {
  rm -rf "$WORK/got" "$WORK/want"
  mkdir "$WORK/got" "$WORK/want"
  ask get "$1" "$2"
  LC_ALL=C diff -rq "$WORK/want" "$WORK/got" >>"$WORK/bad" || true
}

# The rate of $1 operations in $2 milliseconds.
rate() { printf '%d keys in %d.%03d s, %d a second' "$1" $(($2 / 1000)) $(($2 % 1000)) $(($1 * 1000 / ($2 + 1))); }

# How many requests had to be made again, if any.
again() { ((AGAIN == 0)) || printf ', %s requests made again' "$AGAIN"; }

# Counts the answers in file $1 that are not 200 or 201, tells what they were, and prints their number.
failures() {
  awk -v all="$COUNT" '$1 == 200 || $1 == 201 { good++; next } { told[$0]++ }
    END { for (t in told) printf "  %d x %s\n", told[t], t > "/dev/stderr"; print all - good }' "$1"
}

keys_per_shard() {
  local -a source=(--config "$CONFIG")
  [[ $GIVEN == no ]] || source=(--address "${NODES[0]}")
  seq "$COUNT" | generate keys 0 | "$BIN" where - "${source[@]}" |
    awk -F '\t' '{ n[$1 "\t" $2]++ } END { for (s in n) print s "\t" n[s] }' | sort -n |
    awk -F '\t' '{ printf "  shard %s %s: %d keys\n", $1, $2, $3 }'
}

main() {
  local bad=0 wrong=0
  read_arguments "$@"
  prepare
  if [[ $WRITE == yes ]]; then
    in_batches write_batch
    bad=$(failures "$WORK/set")
    printf 'wrote %s, %s failed, over %s nodes%s\n' "$(rate "$COUNT" "$TOOK")" "$bad" "${#NODES[@]}" "$(again)"
    keys_per_shard || true # dkv has said why it cannot tell
  fi
  if [[ $VERIFY == yes ]]; then
    AGAIN=0
    in_batches read_batch
    failures "$WORK/get" >"$WORK/unread"
    wrong=$(wc -l <"$WORK/bad")
    printf 'read %s, %s not as written%s\n' "$(rate "$COUNT" "$TOOK")" "$wrong" "$(again)"
  fi
  ((bad + wrong == 0)) || {
    head -n 3 "$WORK/curl" >&2
    fail "$bad writes failed, $wrong values were not read back as written"
  }
}

main "$@"
