"""What others published of the models' parameters and MACs."""
