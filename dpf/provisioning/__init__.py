"""Provisioning: images, DPUs and the clusters that they join."""
