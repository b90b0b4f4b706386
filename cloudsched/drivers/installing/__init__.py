"""How does a bare host become part of a Slurm or a Kubernetes cluster? Steps run over SSH; docs/design/installing.md.

`access` says which host and how one gets in, `given` what may be asked for, `hosts` how a step is run there once whatever
dies meanwhile, `slurm` and `kubeadm` what the steps are.
"""

from __future__ import annotations
