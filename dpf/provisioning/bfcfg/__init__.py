"""bf.cfg: what a card is told along with its image, and the join command in it."""
