"""The benchmark: this program and its peers against one nginx, in one run; see README.md."""
