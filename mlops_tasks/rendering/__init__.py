"""A pipeline to the manifests that run its server elsewhere; no cluster is asked and no secret's value is written."""
