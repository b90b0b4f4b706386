"""What does each step do on a host of a Slurm cluster? POSIX shell; every script may run again after any of its lines.

`$prefix` is the directory that holds everything, or empty: then Slurm lives where Debian has it and systemd, where it runs,
keeps the daemons.
"""

from __future__ import annotations

COMMON = r"""
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; export PATH
LC_ALL=C; export LC_ALL
umask 022  # the daemons read what is written here, as users of their own; what is secret says so
say() { printf '%s\n' "$*"; }
fact() { printf '::%s=%s\n' "$1" "$2"; }
fail() { say "$*"; exit 1; }
base=$HOME/.cloudsched-install
if [ -n "$prefix" ]; then
  conf=$prefix/etc key=$prefix/munge.key socket=$prefix/run/munge.sock state=$prefix/state spool=$prefix/spool
  logs=$prefix/log run=$prefix/run
else
  conf=/etc/slurm key=/etc/munge/munge.key socket=/run/munge/munge.socket.2 state=/var/lib/slurm/slurmctld
  spool=/var/lib/slurm/slurmd logs=/var/log/slurm run=/run/slurm
fi
SLURM_CONF=$conf/slurm.conf; export SLURM_CONF
by_systemd() { [ -z "$prefix" ] && [ -d /run/systemd/system ]; }
alive() { # daemon
  p=$(cat "$run/$1.pid" 2>/dev/null) && [ -n "$p" ] && [ "$(cat "/proc/$p/comm" 2>/dev/null)" = "$1" ]
}
end() { # daemon
  alive "$1" || return 0
  p=$(cat "$run/$1.pid"); kill "$p" 2>/dev/null; i=0
  while [ "$(cat "/proc/$p/comm" 2>/dev/null)" = "$1" ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i + 1)); done
  [ $i -lt 300 ] || kill -9 "$p" 2>/dev/null
  return 0
}
quiet() { "$@" < /dev/null > "$logs/start-${1##*/}.log" 2>&1 7>&-; }
answers() { munge -S "$socket" -n 2>/dev/null </dev/null | unmunge -S "$socket" >/dev/null 2>&1; }
start_munge() {
  answers && return 0
  if by_systemd; then systemctl enable munge >/dev/null 2>&1; systemctl restart munge
  elif [ -n "$prefix" ]; then
    quiet munged --force --key-file="$key" --socket="$socket" --pid-file="$run/munged.pid" --seed-file="$prefix/munge.seed" \
      --log-file="$logs/munged.log" --num-threads=2
  else
    for name in /run/munge /var/lib/munge /var/log/munge; do mkdir -p $name; chown munge:munge $name; done
    chmod 755 /run/munge && chmod 700 /var/lib/munge /var/log/munge
    runuser -u munge -- munged --force < /dev/null > "$logs/start-munged.log" 2>&1
  fi
  i=0
  while ! answers; do
    [ $i -lt 100 ] || fail "munged does not answer: $(tail -n 1 "$logs/start-munged.log" 2>/dev/null)"
    sleep 0.1; i=$((i + 1))
  done
}
start_one() { # daemon, words
  name=$1; shift
  if by_systemd; then systemctl enable "$name" >/dev/null 2>&1; systemctl "${1:-start}" "$name" && return 0
    fail "$name does not start: $(journalctl -n 1 -o cat -u "$name" 2>/dev/null)"
  fi
  [ "$1" = restart ] && end "$name"
  [ $# -gt 0 ] && shift
  alive "$name" && return 0
  quiet "$name" "$@" || fail "$name does not start: $(tail -n 1 "$logs/start-$name.log")"
}
up() { # until the controller answers
  i=0
  until scontrol ping 2>/dev/null </dev/null | grep -q ' is UP'; do
    gone=; [ $i -lt 20 ] || alive slurmctld || by_systemd || gone=1
    if [ $i -ge "$1" ] || [ "$gone" ]; then
      fail "slurmctld does not answer: $(grep -E 'fatal|error' "$logs/slurmctld.log" 2>/dev/null | tail -n 1)"
    fi
    sleep 0.5; i=$((i + 1))
  done
}
write() { # path, text, mode
  printf '%s' "$2" > "$1.new" && chmod "${3:-644}" "$1.new" && mv -f "$1.new" "$1" || fail "$1 cannot be written"
}
listens() { # port
  grep -qi ":$(printf '%04X' "$1") 0*:0000 0A " /proc/net/tcp /proc/net/tcp6 2>/dev/null
}
hosts() { sed 's/ Feature=[^ ]*//' | sort; }
marked() { sed -n "s/^$1=//p" "$base/installed" 2>/dev/null; }
"""

LOOK = r"""
if [ -z "$prefix" ] && [ "$(id -u)" != 0 ]; then
  fail "$(id -un) is not root: give root's account, one with sudo, or the option prefix"
fi
fact host_name "$(hostname -s 2>/dev/null || uname -n)"
fact user "$(id -un)"
fact cores "$(nproc)"
fact memory_mb "$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024))"
fact gpus "$(ls /dev/nvidia[0-9]* 2>/dev/null | wc -l)"
if [ -f "$base/installed" ]; then
  if [ "$(marked kind)" != slurm ] || [ "$(marked role)" != "$role" ] || [ "$(marked cluster)" != "$cluster" ]; then
    fail "this host is the $(marked role) of the $(marked kind) cluster $(marked cluster); take that apart first"
  fi
elif [ -e "$conf/slurm.conf" ] && ! grep -q '^# written by cloudsched' "$conf/slurm.conf"; then
  fail "$conf/slurm.conf is there and is not ours: this host belongs to another Slurm"
elif [ -n "$prefix" ] && [ -d "$prefix" ] && [ -n "$(ls -A "$prefix")" ] && [ ! -f "$prefix/.cloudsched" ]; then
  fail "$prefix is there, is not empty and is not ours"
fi
if [ "$role" = controller ]; then port=$slurmctld_port daemon=slurmctld; else port=$slurmd_port daemon=slurmd; fi
if [ ! -f "$base/installed" ] && listens "$port"; then
  fail "port $port is taken on this host: set the option ${daemon}_port"
fi
. /etc/os-release 2>/dev/null
say "${PRETTY_NAME:-$(uname -s)}, $(nproc) cores"
"""

PACKAGES = r"""
lacking() { for name in $programs; do command -v "$name" >/dev/null || printf ' %s' "$name"; done; }
missing=$(lacking)
if [ -n "$missing" ]; then
  case $packages in
  apt)
    [ "$(id -u)" = 0 ] || fail "apt needs root; missing:$missing"
    DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND
    apt-get install -y --no-install-recommends $debs < /dev/null || { say "apt-get could not install $debs"; exit 75; };;
  bundle)
    [ "$(id -u)" = 0 ] || fail "dpkg needs root; missing:$missing"
    ls "$bundle"/*.deb >/dev/null 2>&1 || fail "bundle: there are no packages (*.deb) in $bundle"
    DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND
    dpkg -i "$bundle"/*.deb < /dev/null || fail "dpkg could not install what is in $bundle";;
  *)
    fail "not installed:$missing; install the Debian packages $debs, or set the option packages to apt or bundle";;
  esac
  missing=$(lacking)
  [ -z "$missing" ] || fail "still not there after the installation:$missing"
fi
mine=$("$daemon" -V 2>/dev/null | sed "s/[^0-9]*//")
newest=$(printf '%s\n%s\n' "$mine" "${controller_version:-$mine}" | sort -V | tail -n 1)
if [ "$newest" != "${controller_version:-$mine}" ] && [ "${mine%.*}" != "${controller_version%.*}" ]; then
  fail "Slurm $mine is newer than the controller's $controller_version: a node may be as old, or older"
fi
fact version "$mine"
say "Slurm $mine"
"""

PREPARE = r"""
if [ -n "$prefix" ]; then
  mkdir -p "$prefix" && : > "$prefix/.cloudsched" || fail "$prefix cannot be made"
  mkdir -p "$conf" "$state" "$spool" "$logs" "$run" || fail "$prefix cannot be written"
  owner=$(id -un)
else
  mkdir -p "$conf" "$state" "$spool" "$logs" "$run" /etc/munge || fail "the directories cannot be made"
  getent passwd slurm >/dev/null || useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin slurm
  getent passwd munge >/dev/null || useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin munge
  chown slurm:slurm "$state" "$logs" "$run" && chmod 755 "$state" "$logs" "$run"
  chown munge:munge /etc/munge && chmod 700 /etc/munge
  owner=munge
fi
before=$(cksum < "$key" 2>/dev/null)
if [ "$role" = controller ]; then
  # A key that the packages made, or one of an earlier try: it is as good as another.
  [ -s "$key" ] || { (umask 077; head -c 1024 /dev/urandom > "$key.new") && mv -f "$key.new" "$key"; }
else
  (umask 077; printf '%s' "$MUNGE_KEY" | base64 -d > "$key.new") && mv -f "$key.new" "$key" || fail "$key cannot be written"
fi
chmod 400 "$key" && chown "$owner" "$key"
if [ -n "$before" ] && [ "$before" != "$(cksum < "$key")" ]; then  # a munged with another key may run
  if by_systemd; then systemctl stop munge; else end munged; [ -n "$prefix" ] || pkill -x -u munge munged; fi
fi
printf 'kind=slurm\nrole=%s\ncluster=%s\nprefix=%s\nnode=%s\n' "$role" "$cluster" "$prefix" "$node" > "$base/installed.new"
mv -f "$base/installed.new" "$base/installed"
say "directories and key are there"
"""

CONFIGURE = r"""
write "$conf/cluster.conf" "$cluster_conf"
[ -n "$nodes_conf" ] && write "$conf/nodes.conf" "$nodes_conf"
[ -f "$conf/nodes.conf" ] || write "$conf/nodes.conf" ""
write "$conf/gres.conf" "$gres_conf"
write "$conf/cgroup.conf" "$cgroup_conf"
[ -d "$conf/plugstack.conf.d" ] || [ -f "$conf/plugstack.conf" ] || write "$conf/plugstack.conf" ""
write "$conf/slurm.conf" "# written by cloudsched for the cluster $cluster
include $conf/cluster.conf
AuthInfo=socket=$socket
StateSaveLocation=$state
SlurmdSpoolDir=$spool
SlurmctldPidFile=$run/slurmctld.pid
SlurmdPidFile=$run/slurmd.pid
SlurmctldLogFile=$logs/slurmctld.log
SlurmdLogFile=$logs/slurmd.log
include $conf/nodes.conf
"
[ -n "$prefix" ] || [ ! -d /etc/default ] || write /etc/default/slurmd "SLURMD_OPTIONS='-N $node'
"
say "$conf/slurm.conf is written"
"""

START_CONTROLLER = r"""
start_munge
start_one slurmctld start
up 120
say "slurmctld answers on port $slurmctld_port"
"""

# Its own line of nodes.conf, the others stay. `node_line` begins with NodeName=$node and a space.
REGISTER = r"""
[ -f "$conf/nodes.conf" ] || fail "no Slurm of ours is installed here"
start_munge
old=$(grep "^NodeName=$node " "$conf/nodes.conf")
where=$(printf '%s\n' "$node_line" | grep -o 'NodeAddr=[^ ]* Port=[^ ]*')
if [ -n "$old" ] && ! printf '%s\n' "$old " | grep -qF "$where "; then
  fail "there is a node $node already, at $(printf '%s\n' "$old" | grep -o 'NodeAddr=[^ ]* Port=[^ ]*'): set the option node_name"
fi
other=$(grep -F "$where " "$conf/nodes.conf" | grep -v "^NodeName=$node " | sed 's/^NodeName=\([^ ]*\).*/\1/')
[ -z "$other" ] || fail "the node $other is at $where already: set the option slurmd_port"
kept=$(printf '%s\n' "$old" | grep -o 'Feature=[^ ]*')
[ -z "$kept" ] || node_line=$(printf '%s\n' "$node_line" | sed "s# State=# $kept State=#")
if [ "$old" != "$node_line" ] || [ ! -f "$base/told-$node" ]; then
  rm -f "$base/told-$node"
  { grep -v "^NodeName=$node " "$conf/nodes.conf"; printf '%s\n' "$node_line"; } > "$conf/nodes.conf.new"
  mv -f "$conf/nodes.conf.new" "$conf/nodes.conf"
  start_one slurmctld restart
  up 120
  : > "$base/told-$node"
fi
start_one slurmctld start
up 120
mkdir -p "$base/members" && (umask 077; printf '%s' "$MEMBER" > "$base/members/$node")
fact nodes "$(base64 < "$conf/nodes.conf" | tr -d '\n')"
fact members "$(cd "$base/members" && for m in *; do printf '%s ' "$m:$(cat "$m")"; done)"
say "the controller knows the node $node"
"""

START_NODE = r"""
start_munge
alive slurmd || hosts < "$conf/nodes.conf" > "$base/known"  # what it will know; others are added later
start_one slurmd start -N "$node"
i=0
until alive slurmd || by_systemd; do
  [ $i -lt 100 ] || fail "slurmd ended: $(grep -E 'fatal|error' "$logs/slurmd.log" 2>/dev/null | tail -n 1)"
  sleep 0.1; i=$((i + 1))
done
scontrol ping </dev/null 2>/dev/null | grep -q ' is UP' || { say "the controller cannot be reached from here: $(
  scontrol ping </dev/null 2>&1 | tail -n 1)"; exit 75; }
say "slurmd runs as $node"
"""

READY = r"""
i=0
while :; do
  now=$(sinfo -h -N -n "$node" -o '%T' </dev/null 2>/dev/null | head -n 1)
  case $now in
    idle|mixed|allocated|completing) break;;
    idle~|idle#|'') ;;
    drained|draining|down|drained\*) scontrol update NodeName="$node" State=RESUME </dev/null >/dev/null 2>&1;;
  esac
  if [ $i -ge 180 ]; then
    say "node $node is ${now:-unknown}: $(scontrol show node "$node" </dev/null | sed -n 's/^ *Reason=//p' | head -n 1)"; exit 75
  fi
  sleep 0.5; i=$((i + 1))
done
say "node $node is $now"
"""

# On a node that has another list of nodes than the controller. Jobs outlive their slurmd.
RETELL = r"""
[ -f "$conf/nodes.conf" ] || fail "no Slurm of ours is installed here"
[ "$(marked role)" = controller ] || write "$conf/nodes.conf" "$nodes_conf"  # the controller's is where the list comes from
if [ "$(cat "$base/known" 2>/dev/null)" != "$(printf '%s' "$nodes_conf" | hosts)" ]; then
  start_one slurmd restart -N "$(marked node)"
  printf '%s' "$nodes_conf" | hosts > "$base/known"
fi
say "told"
"""

REMOVE_NODE = r"""
exec 7>"$base/host.lock"; flock 7
[ -f "$conf/nodes.conf" ] || fail "no Slurm of ours is installed here"
grep -q "^NodeName=$node " "$conf/nodes.conf" || { fact gone yes; fail "there is no node $node"; }
up 60
jobs() { squeue -h -w "$node" -t R,CG,S,CF -o %A </dev/null 2>/dev/null | sort -u; }
if [ "$force" != yes ] && [ -n "$(jobs)" ]; then
  fact busy "$(jobs | wc -l)"; fail "$(jobs | wc -l) jobs run on $node"
fi
scontrol update NodeName="$node" State=DRAIN Reason="removed" </dev/null || exit 1
[ -z "$(jobs)" ] || scancel $(jobs) </dev/null
i=0
while [ -n "$(jobs)" ] && [ $i -lt 120 ]; do sleep 0.5; i=$((i + 1)); [ $i -ne 40 ] || scancel -s KILL $(jobs) </dev/null; done
[ -z "$(jobs)" ] || scontrol update NodeName="$node" State=DOWN Reason="removed" </dev/null
grep -v "^NodeName=$node " "$conf/nodes.conf" > "$conf/nodes.conf.new"
mv -f "$conf/nodes.conf.new" "$conf/nodes.conf"
start_one slurmctld restart
up 120
rm -f "$base/members/$node" "$base/told-$node"
fact nodes "$(base64 < "$conf/nodes.conf" | tr -d '\n')"
fact members "$(cd "$base/members" 2>/dev/null && for m in *; do [ -f "$m" ] && printf '%s ' "$m:$(cat "$m")"; done)"
say "node $node is gone"
"""

SWITCH = r"""
up 40
if [ "$want" = cordon ]; then
  scontrol update NodeName="$node" State=DRAIN Reason="$reason" </dev/null || exit 1
  if [ "$drain" = yes ]; then
    jobs() { squeue -h -w "$node" -t R,CG,S,CF -o %A </dev/null 2>/dev/null | sort -u; }
    for job in $(jobs); do scontrol requeue "$job" </dev/null >/dev/null 2>&1 || scancel "$job" </dev/null; done
    i=0
    while [ -n "$(jobs)" ] && [ $i -lt 90 ]; do sleep 0.5; i=$((i + 1)); done
    [ -z "$(jobs)" ] || fail "$(jobs | wc -l) jobs do not leave $node"
  fi
else
  now=$(sinfo -h -N -n "$node" -o '%T' </dev/null | head -n 1)
  case $now in
    drain*|down*|draining) scontrol update NodeName="$node" State=RESUME </dev/null || exit 1;;
    '') fail "there is no node $node";;
  esac
  i=0  # it is asked whether it is there before it is idle
  while [ $i -lt 40 ]; do
    case $(sinfo -h -N -n "$node" -o '%T' </dev/null | head -n 1) in
      *\**|down*|unk*|drain*) sleep 0.5; i=$((i + 1));;
      *) break;;
    esac
  done
fi
say "$node: $(sinfo -h -N -n "$node" -o '%T' </dev/null | head -n 1)"
"""

FEATURES = r"""
exec 7>"$base/host.lock"; flock 7
[ -f "$conf/nodes.conf" ] || fail "no Slurm of ours is installed here"
line=$(grep "^NodeName=$node " "$conf/nodes.conf") || fail "there is no node $node"
scontrol update NodeName="$node" AvailableFeatures="$features" ActiveFeatures="$features" </dev/null || exit 1
line=$(printf '%s\n' "$line" | sed 's/ Feature=[^ ]*//')
[ -z "$features" ] || line=$(printf '%s\n' "$line" | sed "s# State=# Feature=$features State=#")
{ grep -v "^NodeName=$node " "$conf/nodes.conf"; printf '%s\n' "$line"; } > "$conf/nodes.conf.new"
mv -f "$conf/nodes.conf.new" "$conf/nodes.conf"
"""

STOP = r"""
ours() { # processes that know our configuration, and what the daemons of jobs have started
  for e in /proc/[0-9]*; do
    p=${e#/proc/}
    [ "$p" = $$ ] && continue
    name=$(cat "$e/comm" 2>/dev/null)
    case $name in
      slurmd|slurmctld|slurmstepd|munged)
        [ "$(readlink "$e/ns/mnt")" = "$(readlink /proc/self/ns/mnt)" ] || continue  # a container's, with paths of its own
        told=$(tr '\0' '\n' < "$e/environ" 2>/dev/null | sed -n 's/^SLURM_CONF=//p' | head -n 1)
        if [ "$told" = "$SLURM_CONF" ]; then printf '%s ' "$p"
        elif [ -z "$told$prefix" ] && [ "$name" != munged ]; then printf '%s ' "$p"  # a unit's: jobs outlive it
        fi;;
    esac
  done
}
tree() {
  found=" $* "; more=1
  pairs=$(cat /proc/[0-9]*/stat 2>/dev/null | sed 's/^\([0-9]*\) (.*) [A-Za-z] \([0-9]*\) .*/\1:\2/')
  while [ "$more" ]; do
    more=
    for x in $pairs; do
      case "$found" in *" ${x%:*} "*) continue;; esac
      case "$found" in *" ${x#*:} "*) found="$found${x%:*} "; more=1;; esac
    done
  done
  printf '%s' "$found"
}
[ "$(marked kind)" = slurm ] || { say "no Slurm of ours is installed here"; exit 0; }
if [ "$role" = controller ] && alive slurmctld; then
  for job in $(squeue -h -o %A </dev/null 2>/dev/null); do scancel "$job" </dev/null >/dev/null 2>&1; done
fi
if by_systemd; then for name in slurmd slurmctld munge; do systemctl disable --now $name >/dev/null 2>&1; done; fi
steps=$(tree $(ours))
end slurmd; end slurmctld; end munged
for p in $steps; do [ "$p" -gt 1 ] && kill -9 "$p" 2>/dev/null; done
i=0
while [ -n "$(ours)" ] && [ $i -lt 100 ]; do for p in $(ours); do kill -9 "$p"; done; sleep 0.1; i=$((i + 1)); done
[ -z "$(ours)" ] || fail "these processes do not end: $(ours)"
say "stopped"
"""

ERASE = r"""
[ "$(marked kind)" = slurm ] || { say "nothing is left"; exit 0; }
if [ -n "$prefix" ]; then
  [ ! -d "$prefix" ] || [ -f "$prefix/.cloudsched" ] || fail "$prefix is not ours"
  rm -rf -- "$prefix" || fail "$prefix cannot be removed"
  [ ! -e "$prefix" ] || fail "$prefix is still there"
else
  if grep -q '^# written by cloudsched' "$conf/slurm.conf" 2>/dev/null; then
    rm -f "$conf/slurm.conf" "$conf/cluster.conf" "$conf/nodes.conf" "$conf/gres.conf" "$conf/cgroup.conf" /etc/default/slurmd
  fi
  rm -rf "$state" "$spool" "$run"/*.pid "$key" "$logs"/start-*.log
  [ ! -e "$conf/cluster.conf" ] && [ ! -e "$key" ] || fail "not everything could be removed"
fi
rm -rf "$base/members" "$base"/told-* "$base/known"
say "nothing is left of Slurm"
"""
