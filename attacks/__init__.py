"""Membership-inference attacks: one file each, behind one protocol; an attack never sees who was a member."""

from dpaudit.attacks.base import Attack as Attack
from dpaudit.attacks.base import Observed as Observed
from dpaudit.attacks.canary import llr_scores as llr_scores
from dpaudit.attacks.canary import per_step_scores as per_step_scores
from dpaudit.attacks.lira import lira_scores as lira_scores
from dpaudit.attacks.membership import scores_of as scores_of
from dpaudit.attacks.membership import split as split
from dpaudit.attacks.registry import make as make
from dpaudit.attacks.registry import names as names
from dpaudit.attacks.registry import register as register
