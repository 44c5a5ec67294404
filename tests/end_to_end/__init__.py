"""Tests with a real scheduler: a package, so that a fixture of package scope ends with them and not with the whole run."""
