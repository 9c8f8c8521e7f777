"""Pure sampling maths and the PyTorch reference built on it. No files, no targets."""
