"""The Kamaji cluster manager: DPU clusters whose control plane Kamaji runs as pods of the host cluster.

What a DPUCluster should have is made by pure functions (``controlplane``, ``keepalived``) and applied by the server's own apply
under one field owner: what somebody changes by hand comes back, what others add stays. What is found there is judged by
pure functions too (``judge``).
"""

from dpf.clustermanager.kamaji.controller import kamaji_cluster_controller
from dpf.clustermanager.kamaji.settings import Settings

__all__ = ["Settings", "kamaji_cluster_controller"]
