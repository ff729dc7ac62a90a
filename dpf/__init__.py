"""DPF: provisions BlueField DPUs from Kubernetes and runs services on them."""
