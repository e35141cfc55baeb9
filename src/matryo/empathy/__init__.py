"""The empathy room: Empathic DQN, its gridworlds, and what side effects its agents have."""
