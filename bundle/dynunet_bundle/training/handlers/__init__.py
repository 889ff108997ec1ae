"""What train.json attaches to the trainer, beside what people watch."""
