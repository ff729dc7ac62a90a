"""What the programs on a host node share: its PCI functions, its network, its tools and its small files."""
