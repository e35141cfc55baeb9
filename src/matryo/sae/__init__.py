"""The SAE room: train, evaluate, compare and explore sparse autoencoders on a model's activations."""
