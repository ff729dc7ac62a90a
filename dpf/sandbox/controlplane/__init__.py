"""Real Kubernetes control planes on this machine: binaries, certificates, processes.

One etcd and, per cluster, a kube-apiserver and a kube-controller-manager, all on loopback with ports that were free. The tests and
the sandbox run on them.
"""
