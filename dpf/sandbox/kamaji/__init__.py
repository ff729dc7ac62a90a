"""A stand-in for Kamaji: answers each TenantControlPlane with a real API server and controller-manager of its own.

What a manager of DPU clusters sees of Kamaji is done as Kamaji does it (``test_real_kamaji.py`` says how that is): it takes over
the Service, makes all its ports the node port and takes foreign labels off it, writes the Secret with the admin kubeconfig, tells
version and state in the status, holds the object by its finalizer until everything of it is gone. What runs is processes of this
machine instead of pods: one replica, and one version of Kubernetes, the one that the sandbox has been built with; an upgrade is a
restart, and no version is refused. An address that is not of this machine is answered by one of the sandbox's own.
"""
