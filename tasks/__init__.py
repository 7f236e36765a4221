"""The worker side: the Celery tasks, their app, the job records and the settings."""
