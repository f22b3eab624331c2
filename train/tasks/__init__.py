"""What a model is asked, what its answers come down to, and how programs it wrote are run."""
