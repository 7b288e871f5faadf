"""Upper bounds on the privacy that a mechanism, or everything in a ledger, spent.

An accountant reads only the ledger. `dp_accounting` is imported only where it is asked (the witness of a summary, the
last check of a calibration, sampling without replacement and repeat-and-select by RDP).
"""

from dpaudit.accounting._source import as_relation as as_relation
from dpaudit.accounting._source import facts_of as facts_of
from dpaudit.accounting.agreement import check_agreement as check_agreement
from dpaudit.accounting.agreement import compare_accountants as compare_accountants
from dpaudit.accounting.assumptions import assumptions_of as assumptions_of
from dpaudit.accounting.assumptions import verified_by as verified_by
from dpaudit.accounting.assumptions import without_amplification as without_amplification
from dpaudit.accounting.bounds import epsilon as epsilon
from dpaudit.accounting.bounds import pld_that_fits as pld_that_fits
from dpaudit.accounting.calibrate import calibrate_event as calibrate_event
from dpaudit.accounting.calibrate import calibrate_noise as calibrate_noise
from dpaudit.accounting.curves import PrivacyCurve as PrivacyCurve
from dpaudit.accounting.curves import largest_posterior as largest_posterior
from dpaudit.accounting.exporters import to_dp_accounting as to_dp_accounting
from dpaudit.accounting.group import convert_unit as convert_unit
from dpaudit.accounting.group import group_event as group_event
from dpaudit.accounting.histories import from_flower as from_flower
from dpaudit.accounting.histories import from_jax_privacy as from_jax_privacy
from dpaudit.accounting.histories import from_opacus as from_opacus
from dpaudit.accounting.histories import from_parameters as from_parameters
from dpaudit.accounting.importers import from_compute_dp_sgd_privacy as from_compute_dp_sgd_privacy
from dpaudit.accounting.importers import from_dp_accounting as from_dp_accounting
from dpaudit.accounting.importers import from_tensorflow_privacy_query as from_tensorflow_privacy_query
from dpaudit.accounting.running import RunningEpsilon as RunningEpsilon
from dpaudit.accounting.statement import assumption_lines as assumption_lines
from dpaudit.accounting.statement import statement as statement
from dpaudit.accounting.statement import up as up
from dpaudit.accounting.steps import steps_of as steps_of
from dpaudit.accounting.summary import summarize as summarize
from dpaudit.accounting.targets import Target as Target
from dpaudit.accounting.targets import calibrate_target as calibrate_target
from dpaudit.accounting.targets import parse_target as parse_target
from dpaudit.accounting.tuning import record_search as record_search
from dpaudit.accounting.tuning import search_event as search_event
from dpaudit.gdp import gdp_delta as gdp_delta
from dpaudit.gdp import gdp_epsilon as gdp_epsilon
from dpaudit.gdp import gdp_mu as gdp_mu
