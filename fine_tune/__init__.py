"""Fine-tuning: objectives say what is learned, policies say how a model family learns it, the trainer runs both."""
