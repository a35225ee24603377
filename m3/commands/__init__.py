"""The commands: train, preprocess and generate, each assembled from the options of m3/conf."""
