"""Sending a job elsewhere: to a Ray cluster (Jobs API), to Kubernetes (KubeRay), to a cloud (SkyPilot)."""
