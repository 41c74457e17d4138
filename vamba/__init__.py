"""The Vamba hybrid: model, data contract and training step, in plain PyTorch; imports nothing of the distributed stack."""
