"""What is measured, against a limit or a peer; one command each. See README.md."""
