#!/usr/bin/env bash
# A Slurm of one node for tests: no systemd, no cgroups. Needs root and Debian's packages.
#   onenode.sh missing    what is lacking, one line; nothing when it can start
#   onenode.sh install    the packages
#   onenode.sh start      daemons with accounting and GPUS (default 2) fake GPUs
#   onenode.sh stop       by process number, those this script started
set -euo pipefail
state=${ONENODE_DIR:-/run/fusegpt-slurm}
# At its default place: inside a job, neither Snakemake's plugin nor srun keeps SLURM_CONF.
conf=/etc/slurm
marker="# written by tests/slurm/onenode.sh"
packages="slurmctld slurmd slurmdbd slurm-client munge mariadb-server"
host=$(hostname -s)

until_it() { # until_it SECONDS COMMAND...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "onenode: timed out: $*" >&2; return 1; }
    sleep 0.3
  done
}

daemon() { # daemon NAME COMMAND...
  local name=$1; shift
  "$@" >"$state/log/$name.out" 2>&1 </dev/null &
  echo $! >"$state/pid/$name"
}

missing() {
  [ "$(id -u)" = 0 ] || { echo "root is needed to run a Slurm"; return; }
  command -v apt-get >/dev/null || { for p in slurmctld slurmd munged; do
    command -v $p >/dev/null || { echo "$p is missing, and there is no apt-get"; return; }; done; }
  if [ -e $conf/slurm.conf ] && ! grep -q "^$marker" $conf/slurm.conf; then
    echo "$conf/slurm.conf belongs to another Slurm"
  fi
}

install_packages() {
  local lacking=""
  for p in slurmctld slurmd slurmdbd sinfo munged mariadbd; do
    command -v $p >/dev/null || lacking=yes
  done
  [ -n "$lacking" ] || return 0
  export DEBIAN_FRONTEND=noninteractive
  # Debian starts services on installation; here they are ours to start.
  apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages >/dev/null
}

write_config() {
  mkdir -p $conf
  getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >>/etc/hosts
  # Two jobs must fit at once. (nproc would obey OMP_NUM_THREADS.)
  local cpus; cpus=$(getconf _NPROCESSORS_ONLN); [ "$cpus" -ge 2 ] || cpus=2
  local memory; memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.8)}' /proc/meminfo)
  cat >$conf/slurm.conf <<CONF
$marker
ClusterName=fusegpt
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$state/controller
SlurmdSpoolDir=$spool
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdLogFile=$state/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=26819
AccountingStorageTRES=gres/gpu
MinJobAge=3600
KillWait=3
ReturnToService=2
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory Gres=gpu:fake:${GPUS:-2}
PartitionName=cpu Nodes=$host Default=YES MaxTime=60
PartitionName=gpu Nodes=$host MaxTime=60
CONF
  printf 'ConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n' >$conf/cgroup.conf
  (umask 077; cat >$conf/slurmdbd.conf) <<CONF
AuthType=auth/munge
DbdHost=localhost
DbdPort=26819
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
LogFile=$state/log/slurmdbd.log
PidFile=$state/slurmdbd.pid
CONF
  : >$conf/gres.conf
  # Slurm wants character devices and reads a device's number off its name; null devices do.
  for number in $(seq 0 $((${GPUS:-2} - 1))); do
    [ -c "$state/dev/nvidia$number" ] || mknod -m 666 "$state/dev/nvidia$number" c 1 3
    echo "NodeName=$host Name=gpu Type=fake File=$state/dev/nvidia$number" >>$conf/gres.conf
  done
}

start_munge() {
  munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && return
  install -d -o munge -g munge /run/munge
  install -d -o munge -g munge -m 700 /etc/munge /var/lib/munge /var/log/munge
  [ -s /etc/munge/munge.key ] || head -c 1024 /dev/urandom >/etc/munge/munge.key
  chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key
  daemon munged setpriv --reuid=munge --regid=munge --clear-groups munged --foreground
  until_it 20 sh -c 'munge -n | unmunge'
}

start_accounting() {
  local sql="mariadb --no-defaults -S $state/sql.sock"
  [ -d "$state/sql/mysql" ] || mariadb-install-db --user=root --datadir="$state/sql" \
    --auth-root-authentication-method=socket >"$state/log/install-db.out" 2>&1
  daemon mariadbd mariadbd --no-defaults --user=root --datadir="$state/sql" \
    --socket="$state/sql.sock" --skip-networking --innodb-buffer-pool-size=64M
  until_it 60 $sql -e 'select 1'
  $sql -e "create database if not exists slurm; create user if not exists slurm@localhost
    identified by 'slurm'; grant all on slurm.* to slurm@localhost"
  MYSQL_UNIX_PORT="$state/sql.sock" daemon slurmdbd slurmdbd -D
  until_it 60 sacctmgr -n list cluster
  for what in "cluster fusegpt" "account ci Cluster=fusegpt" "user root Account=ci"; do
    sacctmgr -i add $what >/dev/null 2>&1 || true
  done
}

start() {
  mkdir -p "$state"/{log,pid,controller,dev,sql}
  # slurmd runs batch scripts from its spool directory, and /run is often mounted noexec.
  spool=$state/spool; mkdir -p "$spool"
  printf '#!/bin/sh\n' >"$spool/probe"; chmod +x "$spool/probe"
  "$spool/probe" 2>/dev/null || { spool=/var/spool/fusegpt-slurm; mkdir -p $spool; }
  write_config; start_munge; start_accounting
  daemon slurmctld slurmctld -D
  until_it 60 scontrol ping
  daemon slurmd slurmd -D
  until_it 60 sh -c "sinfo -h -o %t | grep -qx idle"
  sinfo -o '%P %t %c cpus %m MB %G'
}

stop() {
  if [ -f "$state/pid/slurmctld" ]; then
    squeue -h -o %i 2>/dev/null | xargs -r scancel || true
    until_it 20 sh -c '[ -z "$(squeue -h)" ]' || true
  fi
  for name in slurmd slurmctld slurmdbd mariadbd munged; do
    [ -f "$state/pid/$name" ] || continue
    local number; number=$(cat "$state/pid/$name")
    kill "$number" 2>/dev/null || true
    until_it 20 sh -c "! kill -0 $number" || kill -9 "$number" 2>/dev/null || true
    rm -f "$state/pid/$name"
  done
  if grep -qs "^$marker" $conf/slurm.conf; then
    rm -f $conf/slurm.conf $conf/slurmdbd.conf $conf/gres.conf $conf/cgroup.conf
  fi
  rm -rf "$state" /var/spool/fusegpt-slurm
}

case ${1:-} in
  missing) missing ;;
  install) install_packages ;;
  start) start ;;
  stop) stop ;;
  *) sed -n '2,6p' "$0"; exit 2 ;;
esac
