"""Secure aggregation: a server sees the sum of integer vectors, and nothing else of any of them."""

from dpaudit.secagg.client import Device as Device
from dpaudit.secagg.messages import Answer as Answer
from dpaudit.secagg.messages import KeyShares as KeyShares
from dpaudit.secagg.messages import Masked as Masked
from dpaudit.secagg.messages import Parameters as Parameters
from dpaudit.secagg.messages import ProtocolViolation as ProtocolViolation
from dpaudit.secagg.messages import PublicKeys as PublicKeys
from dpaudit.secagg.messages import TooFewDevices as TooFewDevices
from dpaudit.secagg.messages import UnmaskRequest as UnmaskRequest
from dpaudit.secagg.server import Aggregation as Aggregation
