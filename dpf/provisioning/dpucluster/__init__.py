"""DPUCluster: the clusters that cards join: their health, the way to them, and which DPU is given to which."""
