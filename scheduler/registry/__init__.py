"""The resources we serve: models, defaults, validation, printing. One file a resource; no HTTP, no store."""
