"""Where a component on one backend parts from a reference: tensor by tensor, by torch module."""
