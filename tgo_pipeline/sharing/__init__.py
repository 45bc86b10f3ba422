"""What leaves the project: cards for the tuned model and the labelled data set, and their way to the model hub."""
