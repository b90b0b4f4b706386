"""How is an installation of Kubernetes rehearsed? A real sshd whose commands find recording stand-ins before the system's own.

`Rehearsal` is one host: `log` holds every command of the system that was called, in order; files of the system are below
`root`. The stand-ins behave as kubeadm and the others do as far as the scripts rely on it.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from tests.drivers.ssh.sshd import Sshd, Sshds

VERSION = "1.31.4"
TOKEN, HASH = "abcdef.0123456789abcdef", "sha256:" + "0a" * 32
_HEAD = "#!/bin/sh\nname=${{0##*/}}; top={top}; root={root}; bin={bin}\nprintf '%s\\n' \"$name $*\" >> $top/log\n"
# name -> what it does; `installed` ones are there only after a package manager has run.
ALWAYS = {
    "id": 'case $1 in -u) cat $top/uid;; *) echo root;; esac',
    "nproc": "cat $top/cores",
    "systemctl": 'case "$*" in "is-active --quiet kubelet") [ -f $root/etc/kubernetes/kubelet.conf ];; esac',
    "swapoff": 'head -n 1 $root/proc/swaps > $root/swaps.new; mv $root/swaps.new $root/proc/swaps',
    "modprobe": "[ ! -f $top/no-$1 ]", "sysctl": "", "ip": "exit 1", "apt-mark": "", "ctr": "",
    "apt-get": "if [ -f $top/apt-fails ]; then rm $top/apt-fails; exit 100; fi\n[ $1 != install ] || cp $top/later/* $bin/",
    "dpkg": "cp $top/later/* $bin/",
}
INSTALLED = {
    "containerd": "echo 'sandbox_image = \"registry.k8s.io/pause:3.9\"'; echo 'SystemdCgroup = false'",
    "kubelet": "",
    "kubeadm": r"""
case $1 in
version) echo v$(cat $top/version);;
init)
  grep -q InitConfiguration "$3" || exit 3
  mkdir -p $root/etc/kubernetes/manifests; echo x > $root/etc/kubernetes/manifests/etcd.yaml
  if [ -f $top/init-dies ]; then rm $top/init-dies; kill -9 $PPID; exit 1; fi
  if [ -f $top/init-fails ]; then echo "error: kubeadm join 1.2.3.4:6443 --token TOKEN refused" >&2; exit 1; fi
  printf 'apiVersion: v1\nclusters: []\nusers: []\n' > $root/etc/kubernetes/admin.conf
  echo x > $root/etc/kubernetes/kubelet.conf
  echo "kubeadm join 10.0.0.1:6443 --token TOKEN --discovery-token-ca-cert-hash HASH";;
token) echo "kubeadm join 10.0.0.1:6443 --token TOKEN --discovery-token-ca-cert-hash HASH ";;
join)
  [ "$(stat -c %a "$3")" = 600 ] && grep -q TOKEN "$3" || exit 3
  mkdir -p $root/etc/kubernetes; echo x > $root/etc/kubernetes/kubelet.conf;;
reset) rm -rf $root/etc/kubernetes;;
esac""".replace("TOKEN", TOKEN).replace("HASH", HASH),
    "kubectl": r"""
case "$*" in
"get --raw /readyz") [ -f $root/etc/kubernetes/admin.conf ];;
"apply "*) for last; do :; done; [ -f "$last" ] && touch $top/network;;
*jsonpath*) [ -f $top/network ] && printf True;;
"get nodes -o json") cat $top/nodes.json;;
"get node "*" -o json") cat $top/node.json;;
"get pods "*) cat $top/pods.json;;
*" nowhere"*) echo 'Error from server (NotFound): nodes "nowhere" not found' >&2; exit 1;;
"drain "*) if [ -f $top/budget ]; then echo "error: Cannot evict pod: it would violate its disruption budget" >&2; exit 1; fi;;
esac""",
}


class Rehearsal:
    """One host."""

    def __init__(self, house: Sshds, name: str, *, installed: bool = False) -> None:
        self.top = house.folder / f"rehearsal-{name}"
        self.root, self.bin, self.later = self.top / "root", self.top / "bin", self.top / "later"
        for folder in (self.bin, self.later, self.root / "proc/net", self.root / "etc", self.root / "etc/containerd",
                       self.root / "var/lib/kubelet"):
            folder.mkdir(parents=True)
        files = {"uid": "0", "cores": "4", "version": VERSION, "log": "", "root/proc/meminfo": "MemTotal:        8000000 kB\n",
                 "root/proc/swaps": "Filename Type Size\n/dev/sda2 partition 1000\n",
                 "root/proc/net/tcp": "", "root/proc/net/tcp6": "",
                 "root/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12"\n', "root/etc/fstab": "/dev/sda2 none swap sw 0 0\n",
                 "nodes.json": json.dumps({"items": []}), "pods.json": json.dumps({"items": []})}
        for path, text in files.items():
            (self.top / path).write_text(text)
        for folder, made in ((self.bin, ALWAYS), (self.bin if installed else self.later, INSTALLED)):
            for command, what in made.items():
                self._command(folder / command, what)
        enter = self.top / "enter"
        enter.write_text(f"PATH={self.bin}:$PATH CLOUDSCHED_INSTALL_ROOT={self.root}; export PATH CLOUDSCHED_INSTALL_ROOT\n"
                         'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
        self.server: Sshd = house.start(settings=(f"ForceCommand /bin/sh {enter}",))

    @property
    def log(self) -> list[str]:
        return (self.top / "log").read_text().splitlines()

    def called(self, start: str) -> list[str]:
        return [line for line in self.log if line.startswith(start)]

    def set(self, name: str, text: str = "") -> None:
        (self.top / name).write_text(text)

    def bundle(self) -> Path:
        """A directory as it is carried to a host without a network."""
        made = self.top / "bundle"
        (made / "images").mkdir(parents=True)
        for name in ("kubeadm.deb", "images/pause.tar", "cni.yaml"):
            (made / name).write_text("x")
        return made

    def _command(self, path: Path, what: str) -> None:
        path.write_text(_HEAD.format(top=self.top, root=self.root, bin=self.bin) + what + "\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        assert os.access(path, os.X_OK)
