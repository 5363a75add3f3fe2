"""Where a model's weights come from: files, seeds, training."""
