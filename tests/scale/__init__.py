"""What several hosts make of one file: ``python -m scale``, from the folder ``tests``."""
