"""What models, prompts and uploads share about the hub: what goes wrong on the way, and its cache here."""
