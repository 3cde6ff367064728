"""Training: fine-tune a base into a LoRA adapter that the server (or any PEFT program) takes as it is."""
