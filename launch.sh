#!/usr/bin/env bash
# Starts and stops the nodes of sharding.toml that belong to this host. `./launch.sh --help` has the rest.
set -euo pipefail

# Settings. Each can be given in the environment.
CONFIG=${DKV_CONFIG:-}                    # the cluster's configuration; default: sharding.toml beside this script
RUN_DIR=${DKV_RUN_DIR:-}                  # pid files and logs; default: run/ beside this script
DATA_DIR=${DKV_DATA_DIR:-}                # the nodes' data; default: the configuration's store.directory
BIN=${DKV_BIN:-}                          # a dkv that is built already; default: build this one
READY_SECONDS=${DKV_READY_SECONDS:-30}    # how long to wait for a node to be ready
FORM_SECONDS=5                            # how long to wait for nodes of other hosts to form the cluster with
STOP_SECONDS=${DKV_STOP_SECONDS:-20}      # how long a node may take to stop before it is killed
SYNC_SECONDS=${DKV_SYNC_SECONDS:-300}     # how long a restarted node may take to be ready and in sync again
LOG_LINES=15                              # how much of a log is shown when a node fails
MAX_LOG_BYTES=$((32 * 1024 * 1024))       # a longer log is set aside at the next start

usage() {
  cat <<'END'
Usage: ./launch.sh [COMMAND]

  start              build, check the configuration, start this host's nodes, wait until they are ready (the default)
  run                the same in the foreground, with the logs: Ctrl-C stops all
  stop               stop the nodes, all at once: each finishes what is under way
  status             this host's processes, then the cluster as a node sees it
  restart [ADDRESS]  build, then restart one node, or all of them one after the other, each shard's replicas before
                     its primary; a copy that is in sync leads while the primary restarts
  kill ADDRESS       kill -9 one node, to try failures; `restart ADDRESS` brings it back
  logs ADDRESS [-f]  the end of a node's log; -f goes on with it
  clean              delete the stopped nodes' data and logs, after asking

A node belongs to this host when its IP address is one of the host's: one script and one sharding.toml serve several
hosts. Starting twice is harmless. Exit code 0: done; 1: not, and what to do is said.

Environment: DKV_CONFIG, DKV_RUN_DIR, DKV_DATA_DIR, DKV_BIN (skips the build), DKV_READY_SECONDS, DKV_STOP_SECONDS,
DKV_SYNC_SECONDS, RUST_LOG.

Examples:
  ./launch.sh
  ./launch.sh kill 127.0.0.1:8080 && ./launch.sh status; ./launch.sh restart 127.0.0.1:8080
  DKV_CONFIG=/etc/dkv/sharding.toml DKV_DATA_DIR=/var/lib/dkv ./launch.sh run
END
}

say() { printf '%s\n' "$*"; }
fail() {
  printf 'launch.sh: %s\n' "$*" >&2
  exit 1
}

# --- the binary and the configuration ---------------------------------------------------------------------------------

# Relative paths of the environment are the caller's; defaults lie beside this script.
settle_paths() {
  local here
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  CONFIG=$(realpath -ms "${CONFIG:-$here/sharding.toml}")
  RUN_DIR=$(realpath -ms "${RUN_DIR:-$here/run}")
  [[ -z $DATA_DIR ]] || DATA_DIR=$(realpath -ms "$DATA_DIR")
  BUILD=no
  if [[ -z $BIN ]]; then
    BUILD=yes
    BIN=${CARGO_TARGET_DIR:-target}/release/dkv
    [[ $BIN == /* ]] || BIN=$here/$BIN
  else
    BIN=$(realpath -ms "$BIN")
  fi
  cd "$here"
}

need() { command -v "$1" >/dev/null || fail "$1 is not installed: $2"; }

build() {
  need curl "install it, on Debian: sudo apt-get install curl"
  if [[ $BUILD == no ]]; then
    [[ -x $BIN ]] || fail "DKV_BIN: $BIN is no program"
    return
  fi
  command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin
  need cargo "install Rust as https://rustup.rs says"
  command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
    fail "no C compiler, which Rust needs for linking: install one, on Debian: sudo apt-get install gcc"
  cargo build --release --locked || fail "the build failed: see above"
}

# For commands that build nothing.
need_bin() { [[ -x $BIN ]] || fail "$BIN is not built yet: ./launch.sh builds it"; }

# Fills LOCAL with this host's addresses, and IDX (- for a witness), SHARD, ROLE, DATA by address. OTHERS: whether other
# hosts have nodes, too.
declare -a LOCAL=()
declare -A IDX=() SHARD=() ROLE=() DATA=()
read_nodes() {
  local table idx name role address data
  table=$("$BIN" nodes --config "$CONFIG" --local -o tsv) || exit 1
  while IFS=$'\t' read -r idx name role address data; do
    [[ -n $address ]] || continue
    LOCAL+=("$address")
    IDX[$address]=$idx
    if [[ $role == witness ]]; then SHARD[$address]=-; else SHARD[$address]="$idx $name"; fi
    ROLE[$address]=$role
    DATA[$address]=$data
    [[ -z $DATA_DIR ]] || DATA[$address]=$DATA_DIR/${data##*/}
  done <<<"$table"
  OTHERS=no
  (($("$BIN" nodes --config "$CONFIG" -o tsv | wc -l) == ${#LOCAL[@]})) || OTHERS=yes
}

need_local_nodes() {
  ((${#LOCAL[@]} > 0)) ||
    fail "no address of $CONFIG belongs to this host (it has: $(hostname -I 2>/dev/null || echo '?'))"
}

# The address must be one of this host's nodes.
check_address() {
  [[ -n ${1:-} ]] || fail "which node? give one of: ${LOCAL[*]}"
  [[ -n ${ROLE[$1]:-} ]] || fail "$1 is not a node of this host: give one of: ${LOCAL[*]}"
}

check_config() {
  local told
  told=$("$BIN" check --config "$CONFIG") || exit 1
  grep '^warning: ' <<<"$told" || true
}

# --- one node ---------------------------------------------------------------------------------------------------------

# As `dkv` names the node's data directory: no colons or brackets.
file_of() {
  local name=${1//[\[\]]/}
  printf '%s/%s.%s' "$RUN_DIR" "${name//:/_}" "$2"
}

# Whether process $1 is the program $3 serving address $2: a pid may have gone to another program since it was noted.
is_node() {
  local -a words=()
  local i
  mapfile -d '' -t words 2>/dev/null <"/proc/$1/cmdline" || return 1
  ((${#words[@]} > 1)) && [[ ${words[0]} == "$3" && ${words[1]} == serve ]] || return 1
  for ((i = 2; i < ${#words[@]}; i++)); do
    [[ ${words[i - 1]} != --address || ${words[i]} != "$2" ]] || return 0
  done
  return 1
}

# Prints the pid of the node at address $1, if it runs and this script started it.
pid_of() {
  local pid address bin file
  file=$(file_of "$1" pid)
  [[ -r $file ]] || return 1
  read -r pid address bin <"$file" || return 1
  [[ $address == "$1" ]] && is_node "$pid" "$1" "$bin" && printf '%s' "$pid"
}

# A process that has ended but was not waited for yet counts as ended.
is_alive() {
  local stat
  read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
  stat=${stat##*) }
  [[ ${stat%% *} != [ZX] ]]
}

log_size() { stat -c %s "$(file_of "$1" log)" 2>/dev/null || echo 0; }

# Whether something accepts connections at address $1.
is_taken() {
  local host=${1%:*}
  host=${host//[\[\]]/}
  (exec 3<>"/dev/tcp/$host/${1##*:}") 2>/dev/null
}

# Starts the node at address $1. STARTED and LOG_FROM remember its pid and where its part of the log begins; TAKEN, that
# another process had the address before, whose answers must not pass for this node's.
declare -A STARTED=() LOG_FROM=() TAKEN=()
start_node() {
  local address=$1 log
  log=$(file_of "$address" log)
  mkdir -p "$(dirname "${DATA[$address]}")"
  (($(log_size "$address") <= MAX_LOG_BYTES)) || mv -f "$log" "$log.old"
  LOG_FROM[$address]=$(($(log_size "$address") + 1))
  TAKEN[$address]=no
  ! is_taken "$address" || TAKEN[$address]=yes
  # Its own session: Ctrl-C is for this script, which then stops the node in order.
  setsid "$BIN" serve --config "$CONFIG" --address "$address" --data-dir "${DATA[$address]}" \
    >>"$log" 2>&1 </dev/null 9>&- &
  STARTED[$address]=$!
  printf '%s %s %s\n' "$!" "$address" "$BIN" >"$(file_of "$address" pid)"
}

show_log() {
  local log
  log=$(file_of "$1" log)
  printf 'The last lines of %s:\n' "$log" >&2
  tail -c "+${LOG_FROM[$1]:-1}" "$log" 2>/dev/null | tail -n "$LOG_LINES" | sed 's/^/  | /' >&2 || true
}

# Asks the node at $1 whether it is ready; if not, REASON says why.
is_ready() {
  local answer
  if [[ ${TAKEN[$1]:-no} == yes ]]; then
    REASON="another process has its address"
    return 1
  fi
  if ! answer=$(curl -sS --noproxy '*' --max-time 2 -w '\n%{http_code}' "http://$1/readyz" 2>&1); then
    REASON=${answer%%$'\n'*}
    return 1
  fi
  REASON=$(head -n 3 <<<"${answer%$'\n'*}")
  [[ ${answer##*$'\n'} == 200 ]]
}

# Whether the node at $1 waits for nodes of other hosts, without which a new cluster does not begin.
is_forming() {
  [[ $OTHERS == yes ]] || return 1
  "$BIN" status --address "$1" -o tsv 2>/dev/null |
    awk -F '\t' -v address="$1" '$3 == address && $5 == "forming" { found = 1 } END { exit !found }'
}

# Waits until all the given addresses are ready. One that ends is told at once, with its log; one that is not ready in
# time, with its reason. Returns 1 if there was any. FORMING: how many wait for other hosts.
wait_ready() {
  local deadline=$((SECONDS + READY_SECONDS)) form_deadline=$((SECONDS + FORM_SECONDS)) bad=0 address
  FORMING=0
  local -a left=("$@") still
  while ((${#left[@]} > 0)); do
    still=()
    for address in "${left[@]}"; do
      if is_ready "$address"; then
        continue
      elif [[ -n ${STARTED[$address]:-} ]] && ! is_alive "${STARTED[$address]}"; then
        node_failed "$address"
        bad=1
      elif ((SECONDS >= form_deadline)) && is_forming "$address"; then
        FORMING=$((FORMING + 1))
      elif ((SECONDS >= deadline)); then
        printf 'launch.sh: %s is not ready after %s s: %s\n' "$address" "$READY_SECONDS" "${REASON:-no reason}" >&2
        bad=1
      else
        still+=("$address")
      fi
    done
    left=("${still[@]}")
    ((${#left[@]} == 0)) || sleep 0.1
  done
  return "$bad"
}

node_failed() {
  local code=0
  wait "${STARTED[$1]}" || code=$?
  rm -f "$(file_of "$1" pid)"
  local what=${ROLE[$1]}
  [[ ${SHARD[$1]} == - ]] || what+=" of shard ${SHARD[$1]}"
  printf 'launch.sh: the node %s (%s) did not start: exit code %s. ' "$1" "$what" "$code" >&2
  show_log "$1"
}

# Stops the nodes at the given addresses: SIGTERM to all, and SIGKILL to those that do not end in time. All get the
# signal in one go: no copy of a shard is to see another leave first, and go on without it.
stop_nodes() {
  local address pid deadline=$((SECONDS + STOP_SECONDS))
  local -A pids=()
  for address in "$@"; do
    pid=$(pid_of "$address") || continue
    pids[$address]=$pid
  done
  ((${#pids[@]} == 0)) || kill -TERM "${pids[@]}" 2>/dev/null || true
  for address in "$@"; do
    pid=${pids[$address]:-}
    [[ -n $pid ]] || continue
    while ((SECONDS < deadline)) && pid_of "$address" >/dev/null; do sleep 0.05; done
    if pid_of "$address" >/dev/null; then
      printf 'launch.sh: %s did not stop within %s s and is killed\n' "$address" "$STOP_SECONDS" >&2
      kill_node "$address"
    fi
    rm -f "$(file_of "$address" pid)"
    say "stopped $address (pid $pid)"
  done
}

# kill -9, and waits for the end.
kill_node() {
  local pid
  pid=$(pid_of "$1") || return 0
  kill -KILL "$pid" 2>/dev/null || true
  while pid_of "$1" >/dev/null; do sleep 0.02; done
  rm -f "$(file_of "$1" pid)"
}

# --- a shard as the cluster sees it ------------------------------------------------------------------------------------

# Looks at shard $1 through its primary as last seen, or else through any node. COPIES: how many it has; PRIMARY; SOUND:
# the copies that run and are in sync; LACKS: the others, and what they do. Returns 1 where no node answers.
declare -A LEADER=()
look() {
  local lines='' idx name address role state in_sync up rest
  COPIES=0 PRIMARY='' SOUND=() LACKS=''
  [[ -z ${LEADER[$1]:-} ]] || lines=$("$BIN" status --address "${LEADER[$1]}" -o tsv 2>/dev/null) || lines=''
  [[ -n $lines ]] || lines=$("$BIN" status --config "$CONFIG" -o tsv 2>/dev/null) || return 1
  while IFS=$'\t' read -r idx name address role state in_sync up rest; do
    [[ $idx == "$1" ]] || continue
    COPIES=$((COPIES + 1))
    [[ $role != primary ]] || PRIMARY=$address
    if [[ $in_sync == yes && $up == yes ]]; then SOUND+=("$address"); else LACKS+=" $address ($state)"; fi
  done <<<"$lines"
  LEADER[$1]=$PRIMARY
}

# Waits until $2 copies of shard $1 run and are in sync.
wait_in_sync() {
  local deadline=$((SECONDS + SYNC_SECONDS))
  until look "$1" && [[ -n $PRIMARY ]] && ((${#SOUND[@]} >= $2)); do
    ((SECONDS < deadline)) ||
      fail "shard $1 has ${#SOUND[@]} of $2 copies in sync after $SYNC_SECONDS s, without$LACKS: the nodes after it were" \
        "left as they are"
    sleep 0.1
  done
}

# Prints a sound copy of the shard last looked at other than $1.
stand_in_for() {
  local address
  for address in "${SOUND[@]}"; do
    [[ $address != "$1" ]] || continue
    printf '%s' "$address"
    return
  done
  return 1
}

# Restarts the node at $1. If it leads its shard, a copy that is in sync leads meanwhile, and gives the lead back. Other
# nodes are safe to be restarted when this returns. $2 is yes where the node must be restarted whatever happens.
restart_node() {
  local address=$1 shard=${IDX[$1]} needed=0 stand_in=''
  local READY_SECONDS=$SYNC_SECONDS # a node is ready when it is in sync
  if [[ $shard != - ]] && look "$shard"; then
    needed=${#SOUND[@]}
    if [[ $PRIMARY == "$address" ]] && stand_in=$(stand_in_for "$address"); then
      "$BIN" handover --config "$CONFIG" --shard "$shard" --to "$stand_in" || {
        [[ $2 == yes ]] || fail "shard $shard was not handed over: $address and the nodes after it were left as they are"
        stand_in=''
      }
    elif [[ $PRIMARY == "$address" ]] && ((COPIES > 1)); then
      say "shard $shard has no other copy in sync (it lacks$LACKS): its requests wait while $address restarts"
    fi
  fi
  stop_nodes "$address"
  start_node "$address"
  wait_ready "$address" || fail "$address is not ready: the nodes after it were left as they are"
  say "started $address (pid ${STARTED[$address]})"
  ((needed == 0)) || wait_in_sync "$shard" "$needed"
  [[ -z $stand_in ]] || "$BIN" handover --config "$CONFIG" --shard "$shard" --to "$address" ||
    say "$stand_in goes on leading shard $shard"
}

# Fills ORDER with this host's nodes: of each shard the replicas before the primary, the witnesses last.
order_for_restart() {
  local first address shard leader
  local -A seen=()
  ORDER=()
  for first in "${LOCAL[@]}"; do
    shard=${IDX[$first]}
    [[ $shard != - && -z ${seen[$shard]:-} ]] || continue
    seen[$shard]=yes leader=''
    look "$shard" || true
    for address in "${LOCAL[@]}"; do
      [[ ${IDX[$address]} == "$shard" ]] || continue
      if [[ $address == "$PRIMARY" ]]; then leader=$address; else ORDER+=("$address"); fi
    done
    [[ -z $leader ]] || ORDER+=("$leader")
  done
  for address in "${LOCAL[@]}"; do
    [[ ${IDX[$address]} != - ]] || ORDER+=("$address")
  done
}

# --- the commands -----------------------------------------------------------------------------------------------------

# One launch.sh at a time changes what runs; the lock goes with this process, and nodes do not inherit it.
lock() {
  mkdir -p "$RUN_DIR"
  exec 9>"$RUN_DIR/lock"
  flock -w 120 9 || fail "another launch.sh is at work in $RUN_DIR"
}
unlock() { exec 9>&-; }

# Starts those of this host's nodes that do not run. Returns 1 if any is not ready then.
start_all() {
  local address
  for address in "${LOCAL[@]}"; do
    pid_of "$address" >/dev/null || start_node "$address"
  done
  wait_ready "${LOCAL[@]}"
}

say_ready() {
  if ((FORMING == 0)); then
    say "All ${#LOCAL[@]} nodes are ready."
  else
    say "All ${#LOCAL[@]} nodes run. The new cluster begins when all nodes of $CONFIG run: start those of the other hosts."
  fi
}

print_table() {
  local address pid
  {
    printf 'SHARD\tIN TABLE\tADDRESS\tPID\tLOG\n'
    for address in "${LOCAL[@]}"; do
      pid=$(pid_of "$address") || pid=-
      printf '%s\t%s\t%s\t%s\t' "${SHARD[$address]}" "${ROLE[$address]}" "$address" "$pid"
      printf '%s\n' "$(file_of "$address" log)"
    done
  } | align
}

# Tab-separated lines as columns.
align() {
  awk -F '\t' '
    { for (i = 1; i <= NF; i++) { cell[NR, i] = $i; if (length($i) > width[i]) width[i] = length($i) } }
    END {
      for (row = 1; row <= NR; row++) {
        for (i = 1; i < NF; i++) printf "%-" width[i] "s  ", cell[row, i]
        print cell[row, NF]
      }
    }'
}

print_hints() {
  local n=${#LOCAL[@]}
  cat <<END

Any node takes any key. Try:
  curl -X PUT 'http://${LOCAL[0]}/set?key=hello&value=world'
  curl 'http://${LOCAL[$((n / 2))]}/get?key=hello'
  curl -X POST 'http://${LOCAL[$((n - 1))]}/update?key=hello&value=there'
  curl -X DELETE 'http://${LOCAL[0]}/delete?key=hello'
./populate.sh fills it, ./launch.sh status shows it, ./launch.sh stop ends it.
END
}

prepare() {
  build
  check_config
  read_nodes
  need_local_nodes
}

command_start() {
  prepare
  lock
  start_all || fail "not all nodes are ready; those that are go on: ./launch.sh stop ends them"
  say_ready
  say ""
  print_table
  print_hints
}

command_run() {
  local address
  prepare
  for address in "${LOCAL[@]}"; do
    ! pid_of "$address" >/dev/null || fail "$address runs already: ./launch.sh stop ends it"
  done
  trap 'end_run 0' INT TERM HUP
  lock
  if ! start_all; then
    unlock
    end_run 1
  fi
  unlock
  say_ready
  disown -a # so that the shell does not comment on a node's end in words of its own
  print_table
  print_hints
  say "Ctrl-C stops all nodes. Their logs from here on:"
  local -a logs=()
  for address in "${LOCAL[@]}"; do logs+=("$(file_of "$address" log)"); done
  tail -n 0 -F "${logs[@]}" 2>/dev/null 9>&- &
  TAIL=$!
  watch_nodes
  say "No node runs any more."
  end_run 1
}

# Says when a node ends; returns when none is left. Nodes that `restart` brings back count.
watch_nodes() {
  local address running
  local -A up=()
  while :; do
    running=0
    for address in "${LOCAL[@]}"; do
      if pid_of "$address" >/dev/null; then
        running=$((running + 1)) up[$address]=yes
      elif [[ ${up[$address]:-} == yes ]]; then
        say "launch.sh: $address has ended: ./launch.sh restart $address brings it back"
        up[$address]=no
      fi
    done
    ((running > 0)) || return 0
    # A trap runs when `wait` is interrupted, but only after `sleep` where that is in the foreground.
    sleep 1 &
    wait $! || true
  done
}

TAIL=
end_run() {
  trap '' INT TERM HUP
  lock
  stop_nodes "${LOCAL[@]}"
  [[ -z $TAIL ]] || kill "$TAIL" 2>/dev/null || true
  exit "$1"
}

command_stop() {
  local file pid address bin
  local -a addresses=()
  lock
  # By the pid files, not the configuration: what it names may have changed since the start.
  for file in "$RUN_DIR"/*.pid; do
    [[ -r $file ]] || continue
    read -r pid address bin <"$file" || continue
    if is_node "$pid" "$address" "$bin"; then addresses+=("$address"); else rm -f "$file"; fi
  done
  ((${#addresses[@]} > 0)) || { say "No node runs."; return; }
  stop_nodes "${addresses[@]}"
}

command_status() {
  local address down=0
  need_bin
  read_nodes
  for address in "${LOCAL[@]}"; do pid_of "$address" >/dev/null || down=$((down + 1)); done
  print_table
  say ""
  "$BIN" status --config "$CONFIG" || exit 1
  ((down == 0)) || fail "$down of this host's ${#LOCAL[@]} nodes do not run: ./launch.sh starts them"
}

command_restart() {
  local address
  local -a ORDER=()
  prepare
  (($# == 0)) || check_address "$1"
  lock
  if (($# > 0)); then
    restart_node "$1" yes
    return
  fi
  order_for_restart
  for address in "${ORDER[@]}"; do restart_node "$address" no; done
}

command_kill() {
  local pid
  need_bin
  read_nodes
  check_address "${1:-}"
  pid=$(pid_of "$1") || fail "$1 does not run"
  kill_node "$1"
  say "killed $1 (pid $pid): ./launch.sh restart $1 brings it back"
}

command_logs() {
  local log
  need_bin
  read_nodes
  check_address "${1:-}"
  log=$(file_of "$1" log)
  [[ -r $log ]] || fail "$1 has no log yet: $log"
  if [[ ${2:-} == -f ]]; then exec tail -n 100 -F "$log"; else tail -n 100 "$log"; fi
}

command_clean() {
  local address reply
  local -a doomed=()
  need_bin
  read_nodes
  lock
  for address in "${LOCAL[@]}"; do
    ! pid_of "$address" >/dev/null || fail "$address runs: ./launch.sh stop first"
    [[ -d ${DATA[$address]} ]] || continue
    [[ -e ${DATA[$address]}/VERSION ]] || fail "${DATA[$address]} has no VERSION: not a node's data, not touched"
    doomed+=("${DATA[$address]}")
  done
  ((${#doomed[@]} == 0)) || du -sh -- "${doomed[@]}"
  printf 'Delete the data of %s nodes, and the logs in %s? Type yes: ' "${#doomed[@]}" "$RUN_DIR"
  read -r reply || true
  [[ ${reply:-} == yes ]] || fail "nothing was deleted"
  ((${#doomed[@]} == 0)) || rm -rf -- "${doomed[@]}"
  rm -f -- "$RUN_DIR"/*.log "$RUN_DIR"/*.log.old "$RUN_DIR"/*.pid
  say "deleted"
}

main() {
  local command=${1:-start}
  (($# == 0)) || shift
  case $command in
    start | run | stop | status | clean) (($# == 0)) || fail "$command takes no argument" ;;
    kill | restart) (($# <= 1)) || fail "$command takes one address" ;;
    logs) [[ $# -le 1 || ($# -eq 2 && $2 == -f) ]] || fail "logs takes an address and perhaps -f" ;;
    -h | --help | help)
      usage
      exit 0
      ;;
    *) fail "unknown command $command: see ./launch.sh --help" ;;
  esac
  settle_paths
  "command_$command" "$@"
}

main "$@"
