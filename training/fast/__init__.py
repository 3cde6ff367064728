"""The same losses and gradients in less time and memory; what is saved stays PEFT's."""
