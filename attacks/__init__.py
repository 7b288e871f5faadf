"""Membership-inference attacks: one file each, behind one protocol; an attack never sees who was a member."""

from dpaudit.attacks.base import Attack as Attack
from dpaudit.attacks.base import Observed as Observed
from dpaudit.attacks.boundary_distance import boundary_distances as boundary_distances
from dpaudit.attacks.canary import llr_scores as llr_scores
from dpaudit.attacks.canary import per_step_scores as per_step_scores
from dpaudit.attacks.ceilings import Ceiling as Ceiling
from dpaudit.attacks.ceilings import ceiling_of as ceiling_of
from dpaudit.attacks.ceilings import ceiling_of_claim as ceiling_of_claim
from dpaudit.attacks.ceilings import with_ceiling as with_ceiling
from dpaudit.attacks.lira import lira_scores as lira_scores
from dpaudit.attacks.lira import offline_scores as offline_scores
from dpaudit.attacks.membership import scores_of as scores_of
from dpaudit.attacks.membership import split as split
from dpaudit.attacks.registry import make as make
from dpaudit.attacks.registry import names as names
from dpaudit.attacks.registry import register as register
from dpaudit.attacks.rmia import rmia_scores as rmia_scores
from dpaudit.attacks.rounds import ObservedRounds as ObservedRounds
from dpaudit.attacks.subset import only as only
