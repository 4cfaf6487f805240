"""The files that trainers write: which weight of the model each tensor is for."""
