"""The engine: what would stay if Celery were replaced. It knows HTTP and files, no queue."""
