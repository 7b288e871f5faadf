"""Lower bounds on epsilon from scores, with a stated confidence and a stated family of assumptions."""

from dpaudit.estimation.attack_metrics import summarise_attack as summarise_attack
from dpaudit.estimation.attack_metrics import tpr_at_fpr as tpr_at_fpr
from dpaudit.estimation.auc import bootstrap_interval as bootstrap_interval
from dpaudit.estimation.auc import delong_interval as delong_interval
from dpaudit.estimation.auc import exact_auc as exact_auc
from dpaudit.estimation.counts import estimate_confusion as estimate_confusion
from dpaudit.estimation.counts import estimate_game as estimate_game
from dpaudit.estimation.curves import CurveFamily as CurveFamily
from dpaudit.estimation.curves import profile_curve as profile_curve
from dpaudit.estimation.estimate import METHODS as METHODS
from dpaudit.estimation.estimate import estimate as estimate
from dpaudit.estimation.estimate import estimate_source as estimate_source
from dpaudit.estimation.fdp import refutes_curve as refutes_curve
from dpaudit.estimation.per_step import per_step_bound as per_step_bound
from dpaudit.estimation.plan import Plan as Plan
from dpaudit.estimation.plan import plan_audit as plan_audit
from dpaudit.estimation.power import perfect_attack as perfect_attack
from dpaudit.estimation.power import simulated_power as simulated_power
from dpaudit.estimation.score_files import read_scores as read_scores
from dpaudit.estimation.sequential import ClaimTest as ClaimTest
from dpaudit.estimation.sequential import GuessTest as GuessTest
from dpaudit.estimation.sequential import PairTest as PairTest
from dpaudit.estimation.sequential import anytime_epsilon as anytime_epsilon
from dpaudit.estimation.sequential import combine_e_values as combine_e_values
from dpaudit.estimation.sequential import confidence_sequence as confidence_sequence
from dpaudit.estimation.sequential import spend as spend
