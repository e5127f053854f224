"""TLS, tokens and encryption at rest, for both halves. Imports nothing of ours."""
