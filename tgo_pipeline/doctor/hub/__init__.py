"""What the model hub gives of what the parameters name; nothing is downloaded."""
