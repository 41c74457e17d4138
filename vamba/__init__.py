"""The Vamba hybrid: model, data contract and training step, in plain PyTorch, without the distributed stack."""
