"""Keeps a card's virtual functions on its host, and the first of them in the host's bridge."""
