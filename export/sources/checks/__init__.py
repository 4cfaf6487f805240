"""Whether a model has what its family needs: parts, settings, tensors."""
