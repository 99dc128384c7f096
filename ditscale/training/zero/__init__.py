"""DeepSpeed: strategies, and where ZeRO stores weights, gradients and optimizer state."""
