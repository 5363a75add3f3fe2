"""What is installed: `plumbline.harness` and `plumbline.models` are the folders harness/ and models/ of the repository."""
