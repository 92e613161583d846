#!/usr/bin/env bash
# Run a command on a SLURM of one node, this machine, that lasts as long as the command.
#
#     tests/slurm/single_node.sh COMMAND…
#
# Needs root and Debian's slurm-wlm and munge, which it installs if they are missing (INSTALL=no:
# it does not). Exit status: the command's; 77: there can be no SLURM here, and a line says why.
# State, logs and sockets are in a temporary folder; nothing in /etc is changed. KEEP=yes keeps it.
set -euo pipefail

skip() { echo "single_node.sh: no SLURM here: $1" >&2; exit 77; }

[ $# -gt 0 ] || { echo "usage: $0 COMMAND…" >&2; exit 2; }
[ "$(id -u)" = 0 ] || skip "it has to be started by root"
export PATH="$PATH:/usr/sbin:/sbin"
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    [ "${INSTALL:-yes}" = yes ] || skip "slurmctld, slurmd or munged is missing: apt-get install slurm-wlm munge"
    command -v apt-get >/dev/null || skip "slurm-wlm and munge are missing, and there is no apt-get"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        slurm-wlm munge; } >/dev/null 2>&1 || skip "apt-get install slurm-wlm munge failed"
fi

state=$(mktemp -d /tmp/slurm-node.XXXXXX)
daemons=()

tear_down() {
    status=$?
    trap - EXIT INT TERM
    if [ "${SLURM_CONF:-}" = "$state/slurm.conf" ]; then  # never the jobs of another SLURM
        scancel --quiet --signal=KILL --full --user=root 2>/dev/null || true
        scancel --quiet --user=root 2>/dev/null || true
        for _ in $(seq 50); do [ -z "$(squeue --noheader 2>/dev/null)" ] && break; sleep 0.1; done
    fi
    for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${daemons[@]}"; do
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [ "${KEEP:-no}" = yes ]; then echo "single_node.sh: logs are in $state" >&2; else rm -rf "$state"; fi
    exit "$status"
}
trap tear_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

failed() { echo "single_node.sh: $1; its log:" >&2; tail -n 20 "$2" >&2 || true; exit 1; }

# Every daemon authenticates with munge, here on a socket and with a key of its own. munged insists
# that none but its user can write the folders above them.
chmod 755 "$state"
mkdir -p "$state"/munge "$state"/run "$state"/control "$state"/node
dd if=/dev/urandom of="$state/munge/key" bs=128 count=1 status=none
chmod 400 "$state/munge/key"
chown -R munge:munge "$state/munge" "$state/run"
chmod 700 "$state/munge"
chmod 755 "$state/run"
runuser -u munge -- munged --foreground --force --key-file="$state/munge/key" --socket="$state/run/munge" \
    --pid-file="$state/run/munged.pid" --seed-file="$state/munge/seed" --log-file="$state/munge/log" \
    >"$state/munged.out" 2>&1 &
daemons+=($!)
for _ in $(seq 100); do [ -S "$state/run/munge" ] && break; sleep 0.1; done
[ -S "$state/run/munge" ] || failed "munged did not start" "$state/munged.out"

# The node claims four CPUs whatever it has, so that it is the array that limits the jobs. cred_expire
# is also how long a job that was requeued waits.
host=$(hostname -s)
memory=$(awk '/MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)
port=$((20000 + RANDOM % 10000))
cat >"$state/slurm.conf" <<END
ClusterName=single
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$state/run/munge,cred_expire=5
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
StateSaveLocation=$state/control
SlurmdSpoolDir=$state/node
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=10
MinJobAge=300
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF="$state/slurm.conf"

slurmctld -D >"$state/slurmctld.out" 2>&1 &
daemons+=($!)
slurmd -D -N "$host" >"$state/slurmd.out" 2>&1 &
daemons+=($!)
for _ in $(seq 300); do
    [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && break
    sleep 0.1
done
[ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] || failed "the node is not idle" "$state/slurmd.log"
echo "single_node.sh: SLURM $(slurmctld -V | awk '{ print $2 }'), one node, is up" >&2

"$@"
