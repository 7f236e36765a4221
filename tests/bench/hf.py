"""Download with hf_transfer; run as a script: ``python hf.py URL FILE MAX_FILES CHUNK_BYTES``."""

from __future__ import annotations

import sys

import hf_transfer

if __name__ == "__main__":
    url, path, max_files, chunk_bytes = sys.argv[1:]
    hf_transfer.download(url, path, max_files=int(max_files), chunk_size=int(chunk_bytes))
