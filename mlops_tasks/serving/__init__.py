"""The online server: a registry's champion, answering requests."""
