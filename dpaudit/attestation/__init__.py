"""Signed statements about a model: in-toto statements in DSSE envelopes, made and verified with local keys."""

from dpaudit.attestation.dsse import open_envelope as open_envelope
from dpaudit.attestation.dsse import seal as seal
from dpaudit.attestation.keys import generate as generate
from dpaudit.attestation.keys import load_private as load_private
from dpaudit.attestation.keys import load_public as load_public
from dpaudit.attestation.statements import audit_statement as audit_statement
from dpaudit.attestation.statements import seal_statement as seal_statement
from dpaudit.attestation.statements import svr_statement as svr_statement
from dpaudit.attestation.verify import Attested as Attested
from dpaudit.attestation.verify import check_seal as check_seal
from dpaudit.attestation.verify import verify as verify
