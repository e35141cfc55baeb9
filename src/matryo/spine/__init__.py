"""What every room shares and that knows nothing of SAEs, plants or agents."""
