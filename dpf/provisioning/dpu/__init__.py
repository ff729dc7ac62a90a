"""DPU: one card on its way from a slot in a host to a Ready node of its DPU cluster, and back."""
