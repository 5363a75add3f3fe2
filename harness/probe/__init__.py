"""On the device: what runs in the probe's processes. May import torch; knows nothing of sessions, pytest and views."""
