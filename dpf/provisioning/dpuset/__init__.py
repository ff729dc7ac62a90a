"""DPUSet: one DPU per selected card of the selected host nodes, rolled out within a budget."""
