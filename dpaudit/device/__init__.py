"""The client on a device: local training of one client with NumPy and LiteRT, without TensorFlow.

`dpaudit export-device` writes the file that a `DeviceClient` runs. Nothing else of dpaudit is imported here, so that a
process on a small device stays small; see docs/devices.md.
"""

from dpaudit.device.client import DeviceClient, Update
from dpaudit.device.container import Description, LocalDp

__all__ = ["Description", "DeviceClient", "LocalDp", "Update"]
