"""Which noise levels a sampler visits."""
