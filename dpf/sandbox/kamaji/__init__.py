"""A stand-in for Kamaji: answers each TenantControlPlane with a real API server and controller-manager of its own.

What a manager of DPU clusters sees of Kamaji is done as Kamaji does it: it takes over the Service and makes all its ports the
node port, writes the Secret with the admin kubeconfig, tells version and state in the status, holds the object by its finalizer
until everything of it is gone. What runs is processes of this machine instead of pods: one replica, and one version of
Kubernetes, the one that the sandbox has been built with; an upgrade is a restart. An address that is not of this machine is
answered by one of the sandbox's own.
"""
