"""What is published about training with LoRA, measured on models small enough to be trained on the spot."""
