"""What does each step do on a host of a Kubernetes cluster? POSIX shell; every script may run again after any of its lines."""

from __future__ import annotations

COMMON = r"""
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; export PATH
LC_ALL=C; export LC_ALL
KUBECONFIG=/etc/kubernetes/admin.conf; export KUBECONFIG
say() { printf '%s\n' "$*"; }
fact() { printf '::%s=%s\n' "$1" "$2"; }
fail() { say "$*"; exit 1; }
base=$HOME/.cloudsched-install
root=${CLOUDSCHED_INSTALL_ROOT:-}  # another place for files of the system, where this is rehearsed
marked() { sed -n "s/^$1=//p" "$base/installed" 2>/dev/null; }
write() { # path, text, mode
  mkdir -p "${1%/*}" && (umask 077; printf '%s' "$2" > "$1.new") && chmod "${3:-644}" "$1.new" && mv -f "$1.new" "$1" ||
    fail "$1 cannot be written"
}
listens() { grep -qi ":$(printf '%04X' "$1") 0*:0000 0A " "$root/proc/net/tcp" "$root/proc/net/tcp6" 2>/dev/null; }
hidden() { sed 's/--token [^ ]*/--token ***/; s/sha256:[0-9a-f]*/sha256:***/; s/[a-z0-9]\{6\}\.[a-z0-9]\{16\}/***/g'; }
"""

LOOK = r"""
[ "$(id -u)" = 0 ] || fail "$(id -un) is not root: give root's account, or one with sudo"
fact host_name "$(uname -n)"
fact user "$(id -un)"
fact cores "$(nproc)"
memory_mb=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' "$root/proc/meminfo") / 1024))
fact memory_mb "$memory_mb"
if [ -f "$base/installed" ]; then
  if [ "$(marked kind)" != kubernetes ] || [ "$(marked role)" != "$role" ]; then
    fail "this host is the $(marked role) of a $(marked kind) cluster; take that apart first"
  fi
elif [ -e "$root/etc/kubernetes/admin.conf" ] || [ -e "$root/etc/kubernetes/kubelet.conf" ]; then
  fail "/etc/kubernetes is there and is not ours: this host belongs to another cluster (kubeadm reset takes it out)"
else
  for port in $ports; do if listens "$port"; then fail "port $port is taken on this host"; fi; done
fi
command -v systemctl >/dev/null || fail "systemd is not there: kubelet and containerd need it"
if [ "$role" = controller ]; then
  [ "$(nproc)" -ge 2 ] || fail "a controller needs 2 cores; this host has $(nproc)"
  [ "$memory_mb" -ge 1700 ] || fail "a controller needs 1700 MB of memory; this host has $memory_mb"
fi
if [ -n "$(sed 1d "$root/proc/swaps")" ] && [ "$swap_off" != yes ]; then
  fail "swap is on: kubelet refuses; allow the option swap_off"
fi
. "$root/etc/os-release" 2>/dev/null
say "${PRETTY_NAME:-$(uname -s)}, $(nproc) cores, $memory_mb MB"
"""

PREPARE = r"""
mkdir -p "$base"
printf 'kind=kubernetes\nrole=%s\ncluster=%s\nnode=%s\n' "$role" "$cluster" "$node" > "$base/installed.new"
mv -f "$base/installed.new" "$base/installed"
if [ -n "$(sed 1d "$root/proc/swaps")" ]; then
  swapoff -a || fail "swap cannot be switched off"
  sed -i.cloudsched 's/^\([^#].*[[:space:]]swap[[:space:]]\)/# \1/' "$root/etc/fstab"
  say "swap is off, also after a restart"
fi
write "$root/etc/modules-load.d/kubernetes.conf" "overlay
br_netfilter
"
for name in overlay br_netfilter; do modprobe $name || fail "the kernel has no module $name"; done
write "$root/etc/sysctl.d/99-kubernetes.conf" "net.bridge.bridge-nf-call-iptables = 1
net.bridge.bridge-nf-call-ip6tables = 1
net.ipv4.ip_forward = 1
"
sysctl --system >/dev/null || fail "sysctl refuses the settings of /etc/sysctl.d/99-kubernetes.conf"
say "modules and kernel settings are there"
"""

PACKAGES = r"""
has() { command -v "$1" >/dev/null; }
here() { kubeadm version -o short 2>/dev/null; }
complete() { has containerd && has kubelet && has kubectl && [ "$(here)" = "v$version" ]; }
if ! complete; then
  DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND
  case $packages in
  bundle)
    ls "$bundle"/*.deb >/dev/null 2>&1 || fail "bundle: there are no packages (*.deb) in $bundle"
    dpkg -i "$bundle"/*.deb < /dev/null || fail "dpkg could not install what is in $bundle"
    if ls "$bundle"/images/*.tar >/dev/null 2>&1; then
      systemctl start containerd
      for image in "$bundle"/images/*.tar; do
        ctr -n k8s.io images import "$image" < /dev/null || fail "$image cannot be imported"
      done
    fi;;
  apt)
    if [ -n "$mirror" ]; then
      signed=; [ -z "$mirror_key" ] || signed=" [signed-by=$mirror_key]"
      write "$root/etc/apt/sources.list.d/kubernetes.list" "deb$signed $mirror /
"
    fi
    apt-get update < /dev/null || { say "apt-get update failed"; exit 75; }
    apt-get install -y --no-install-recommends containerd "kubelet=$version-*" "kubeadm=$version-*" "kubectl=$version-*" \
      < /dev/null || { say "apt-get could not install Kubernetes $version"; exit 75; }
    apt-mark hold kubelet kubeadm kubectl >/dev/null;;
  *)
    for name in containerd kubelet kubectl kubeadm; do has $name || lacking="$lacking $name"; done
    [ -z "$lacking" ] || fail "not installed:$lacking; install them, or set the option packages to apt (with mirror) or bundle"
    fail "kubeadm is $(here), not v$version: set the option version, or packages";;
  esac
  complete || fail "after the installation kubeadm is $(here), not v$version"
fi
fact version "$version"
say "containerd, kubelet, kubeadm and kubectl $(here)"
"""

CONFIGURE = r"""
conf=$root/etc/containerd/config.toml
if ! grep -q 'SystemdCgroup = true' "$conf" 2>/dev/null; then
  text=$(containerd config default) || fail "containerd does not tell its configuration"
  text=$(printf '%s\n' "$text" | sed 's/SystemdCgroup = false/SystemdCgroup = true/')
  [ -z "$images" ] || text=$(printf '%s\n' "$text" | sed "s#\(sandbox_image = \"\)[^\"]*/\(pause:[^\"]*\)#\1$images/\2#")
  write "$conf" "$text
"
  systemctl restart containerd || fail "containerd does not start"
fi
systemctl enable containerd kubelet >/dev/null 2>&1
systemctl start containerd || fail "containerd does not start"
write "$base/kubeadm.yaml" "$kubeadm_yaml$JOIN_YAML" 600
say "containerd runs, kubeadm is configured"
"""

INIT = r"""
ready() { kubectl get --raw /readyz >/dev/null 2>&1 < /dev/null; }
if ! { [ -f "$root/etc/kubernetes/admin.conf" ] && ready; }; then
  if [ -d "$root/etc/kubernetes/manifests" ] && [ -n "$(ls -A "$root/etc/kubernetes/manifests")" ]; then
    kubeadm reset -f < /dev/null > "$base/reset.log" 2>&1  # a try that was cut short
  fi
  kubeadm init --config "$base/kubeadm.yaml" < /dev/null > "$base/init.log" 2>&1 ||
    { why=$(hidden < "$base/init.log" | grep -v '^$' | tail -n 3 | tr '\n' ' ')
      rm -f "$base/init.log"; fail "kubeadm init: $why"; }
  rm -f "$base/init.log"
fi
i=0
until ready; do [ $i -lt 120 ] || fail "the API server does not answer"; sleep 1; i=$((i + 1)); done
say "the API server answers"
"""

NETWORK = r"""
manifest=${cni_manifest:-$bundle/cni.yaml}
[ -f "$manifest" ] || fail "no network: put the manifest of a CNI plugin at $manifest on the host, or set the option cni_manifest"
kubectl apply --server-side --force-conflicts -f "$manifest" < /dev/null || { say "the CNI manifest is not taken yet"; exit 75; }
i=0
while [ $i -lt 120 ]; do
  now=$(kubectl get node "$node" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' < /dev/null 2>/dev/null)
  [ "$now" != True ] || break
  sleep 1; i=$((i + 1))
done
[ "$now" = True ] || { say "node $node is not ready: does the CNI plugin find its images?"; exit 75; }
say "node $node is ready"
"""

JOIN = r"""
if ! { [ -f "$root/etc/kubernetes/kubelet.conf" ] && systemctl is-active --quiet kubelet; }; then
  [ ! -e "$root/etc/kubernetes/kubelet.conf" ] || kubeadm reset -f < /dev/null > "$base/reset.log" 2>&1
  kubeadm join --config "$base/kubeadm.yaml" < /dev/null > "$base/join.log" 2>&1 ||
    { why=$(hidden < "$base/join.log" | grep -v '^$' | tail -n 1); rm -f "$base/join.log"; fail "kubeadm join: $why"; }
  rm -f "$base/join.log"
fi
rm -f "$base/kubeadm.yaml"
i=0
until systemctl is-active --quiet kubelet; do [ $i -lt 60 ] || fail "kubelet does not run"; sleep 1; i=$((i + 1)); done
say "$node has joined"
"""

READY = r"""
# The node's own account may ask about itself.
KUBECONFIG=$root/etc/kubernetes/kubelet.conf; export KUBECONFIG
i=0
while [ $i -lt 120 ]; do
  now=$(kubectl get node "$node" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' < /dev/null 2>/dev/null)
  [ "$now" != True ] || { say "node $node is ready"; exit 0; }
  sleep 1; i=$((i + 1))
done
say "node $node is not ready: ${now:-it is not there}"; exit 75
"""

RESET = r"""
[ "$(marked kind)" = kubernetes ] || { say "no Kubernetes of ours is installed here"; exit 0; }
there=
for name in admin.conf kubelet.conf manifests; do [ ! -e "$root/etc/kubernetes/$name" ] || there=1; done
if [ "$there" ]; then
  kubeadm reset -f < /dev/null > "$base/reset.log" 2>&1 || fail "kubeadm reset: $(hidden < "$base/reset.log" | tail -n 1)"
fi
systemctl disable --now kubelet >/dev/null 2>&1
say "kubeadm reset is done"
"""

ERASE = r"""
rm -rf "$root/etc/kubernetes" "$root/etc/cni/net.d" "$root/var/lib/kubelet" "$root/var/lib/etcd" "$root/var/lib/cni"
rm -f "$root/etc/modules-load.d/kubernetes.conf" "$root/etc/sysctl.d/99-kubernetes.conf"
rm -f "$root/etc/apt/sources.list.d/kubernetes.list"
[ ! -f "$root/etc/fstab.cloudsched" ] || mv -f "$root/etc/fstab.cloudsched" "$root/etc/fstab"
for name in cni0 flannel.1; do ip link delete $name >/dev/null 2>&1; done
rm -f "$base"/*.log "$base/kubeadm.yaml"
[ ! -e "$root/etc/kubernetes" ] && [ ! -e "$root/var/lib/etcd" ] || fail "not everything could be removed"
say "nothing is left of Kubernetes but its packages"
"""

RESULT = r"""
kubeadm token create --print-join-command < /dev/null || exit 1
printf '\n::kubeconfig\n'
cat "$root/etc/kubernetes/admin.conf"
"""
