"""DeepSpeed: strategies, and where ZeRO keeps weights, gradients and optimizer state."""
