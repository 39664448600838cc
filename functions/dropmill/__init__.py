"""Dropmill: drop a dataset into S3, get a trained and judged SageMaker model, and nothing billable left running."""
